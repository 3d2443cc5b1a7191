"""How long does a command take to start, and completion to answer?

Side by side: `ocifs --version`, `--help`, `ls` and `cat` with a complete cache, beside a Python that does nothing; and
a path in an indexed image, completed by bash, zsh and fish on a terminal. `--before DIR` adds another checkout, with
its own `.venv`. Wall time, and processor time of the process and its children.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ocifs.cli.complete
from benchmarks.timing import arguments, report, side_by_side
from benchmarks.timing import ocifs as ocifs_command
from tests.cli.complete.shells import SCRIPTS, SHELLS, Shell, started

_IDLE = "python -c pass"
_COMMANDS = {
    "--version": ["--version"],
    "--help": ["--help"],
    "ls": ["ls", "IMAGE", "/etc"],
    "cat": ["cat", "IMAGE", "/etc/passwd"],
}
_TYPED = "ocifs cat debian:latest:/etc/pass"
_TICK = os.sysconf("SC_CLK_TCK")
_EACH = 5
"""Completions of one measurement: processor time is counted in ticks of a hundredth of a second."""


class Cost(NamedTuple):
    """Seconds."""

    wall: float
    processor: float


def cost(command: Sequence[str], environment: dict[str, str]) -> Cost:
    """Run a command to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def completion(shell: Shell, pid: int) -> Cost:
    """Type a line and a tab; the processor time is that of the shell, too."""
    before, began = _processor(pid), time.perf_counter()
    for _ in range(_EACH):
        line, _ = shell.complete(_TYPED)
        if not line.startswith(f"{_TYPED}wd"):
            raise SystemExit(f"start_up: {shell.name} completed {line!r}")
    return Cost((time.perf_counter() - began) / _EACH, (_processor(pid) - before) / _EACH)


def _processor(pid: int) -> float:
    """Return the seconds of a process and of its children that have ended (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK


def measure(question: str, ways: "dict[str, partial[Cost]]", rounds: int, reference: str) -> None:
    """Measure in turn, and print wall and processor time."""
    processor: dict[str, list[float]] = {name: [] for name in ways}

    def wall(name: str) -> float:
        taken = ways[name]()
        processor[name].append(taken.processor * 1000)
        return taken.wall * 1000

    taken = side_by_side({name: partial(wall, name) for name in ways}, rounds)
    report(f"{question}, wall time", taken, reference, "ms")
    report(f"{question}, processor time", processor, reference, "ms")


@contextmanager
def shells(place: Path, environment: dict[str, str]) -> Iterator[dict[str, partial[Cost]]]:
    """Start the shells that are installed, with `ocifs` on their PATH."""
    with ExitStack() as stack:
        ways = {}
        for name in SHELLS:
            if shutil.which(name) is None:
                print(f"left out, not installed: {name}", file=sys.stderr)
                continue
            script = Path(ocifs.cli.complete.__file__).with_name(SCRIPTS[name])
            shell = stack.enter_context(started(name, script, environment, place))
            shell.name = name
            ways[f"{name}, ocifs completes"] = partial(completion, shell, shell.pid)
        yield ways


def main() -> None:
    """Measure and print."""
    options = arguments("before")
    programs = {"ocifs": ocifs_command()[0]}
    if options.before:
        programs["before"] = str(Path(options.before, ".venv/bin/ocifs").resolve())
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "debian").symlink_to(Path(options.image).resolve())
        environments = {
            name: os.environ | {"XDG_CACHE_HOME": f"{place}/{name}", "OCIFS_NO_SERVICE": "1"} for name in programs
        }
        image = f"{place}/debian:latest"
        python = partial(cost, [sys.executable, "-c", "pass"], dict(os.environ))
        for program, environment in zip(programs.values(), environments.values(), strict=True):
            cost([program, "cat", image, "/etc/passwd"], environment)  # which fills the cache
        for title, words in _COMMANDS.items():
            typed = [image if word == "IMAGE" else word for word in words]
            ways = {
                f"{name} {title}": partial(cost, [program, *typed], environments[name])
                for name, program in programs.items()
            }
            measure(f"ocifs {title}", {**ways, _IDLE: python}, options.rounds, _IDLE)
        path = f"{Path(programs['ocifs']).parent}:{os.environ['PATH']}"
        with shells(place, environments["ocifs"] | {"PATH": path}) as ways:
            measure("completing a path in an image", {**ways, _IDLE: python}, options.rounds, _IDLE)


if __name__ == "__main__":
    main()
