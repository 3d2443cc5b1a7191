"""The examples of the documentation run, as a reader would run them: beside a layout named `sample`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLES = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
    for number, block in enumerate(_BLOCK.findall(page.read_text()), 1)
]


def test_there_are_examples() -> None:
    assert len(_EXAMPLES) >= 5


@pytest.mark.parametrize("example", _EXAMPLES)
def test_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, _ROOT / "scripts" / "sample_image.py", tmp_path / "sample"], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    exec(compile(example, "<documentation>", "exec"), {"__name__": "example"})
