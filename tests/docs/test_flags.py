"""The table of flags from other tools in docs/cli.md: every row works, or ends in an error with the alternative."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ocifs.cli.verbs import run
from tests.cli.command import Ocifs, Result
from tests.docs.conftest import World

_DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
_ROW = re.compile(r"\| ([^|]*)\| `(ocifs (?:[^`])+)` \| ([^|]+) \|")
_FINDS = {"diff", "grep"}
"""Their exit status 1 is an answer."""


class Row(NamedTuple):
    words: list[str]
    result: str


def _rows() -> Iterator[Row]:
    section = _DOCUMENT.read_text().partition("## Flags from other tools\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| ") and "`ocifs " in line:
            match = _ROW.fullmatch(line)
            assert match, line
            yield Row(shlex.split(match[2])[1:], match[3].strip("` "))


ROWS = list(_rows())


@pytest.fixture
def directory(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the table names, as the current one."""
    (world.home / "work").mkdir()
    (world.home / "variables").write_text("NAME=value\n")
    monkeypatch.chdir(world.home)
    monkeypatch.setenv("OCIFS_CACHE_DIR", str(world.home / ".cache/ocifs"))
    return world.home


def _check(row: Row, status: int, errors: str) -> str | None:
    if row.result == "works":
        answers = {0, 1} if row.words[0] in _FINDS else {0}
        return None if status in answers and errors == "" else f"{shlex.join(row.words)}: {status} {errors}"
    return None if status == 2 and row.result in errors else f"{shlex.join(row.words)}: {status} {errors!r}"


def _on_a_terminal(ocifs: Ocifs, words: list[str]) -> Result:
    """Run a command on a terminal of script(1)."""
    command = ["script", "-qec", shlex.join(ocifs.command(*words)), "/dev/null"]
    ran = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=ocifs.variables(),
        timeout=120,
        check=False,
    )
    return Result(ran.returncode, b"", ran.stdout if "ocifs: " in ran.stdout else "")


def test_there_are_sixty() -> None:
    assert len(ROWS) >= 60


def test_commands_without_a_container(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for row in ROWS:
        if row.words[0] != "run":
            status = run(row.words, None)
            wrong.append(_check(row, status, capfd.readouterr().err))
    assert [each for each in wrong if each] == []


def test_containers(directory: Path, ocifs: Ocifs, root: None, runc: None) -> None:
    wrong = [
        _check(row, result.code, result.err)
        for row in ROWS
        if row.words[0] == "run"
        for result in [_on_a_terminal(ocifs, row.words) if "-it" in row.words else ocifs.run(*row.words)]
    ]
    assert [each for each in wrong if each] == []
