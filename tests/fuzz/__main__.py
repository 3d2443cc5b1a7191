"""Coverage-guided fuzzing of one target: `python -m tests.fuzz TARGET SECONDS [CORPUS-DIRECTORY]`.

It begins with the target's seeds and found cases. What it finds is left in the current directory as `crash-*`; a case
worth keeping belongs into `tests/fuzz/cases/TARGET`, where every run of the tests tries it.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ocifs", "json", "posixpath"]):
    from tests.fuzz.targets import TARGETS, cases

if __name__ == "__main__":
    name, seconds, *corpus = sys.argv[1:]
    with tempfile.TemporaryDirectory() as made:
        place = Path(corpus[0] if corpus else made)
        place.mkdir(exist_ok=True)
        for number, case in enumerate(cases(name)):
            (place / f"seed-{number}").write_bytes(case)
        options = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], str(place), *options], TARGETS[name].fuzz_one)
        atheris.Fuzz()
