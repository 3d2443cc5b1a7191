"""Commands run in the process of the test: a table of options costs no start of an interpreter for each row."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.cli.verbs import run
from tests.cli.command import Argument, Result

Run = Callable[..., Result]


def running(capture: pytest.CaptureFixture[bytes], cache: Path) -> Run:
    """Return what runs `ocifs VERB ARGUMENTS...` with that cache; stdout is no terminal."""

    def call(verb: str, *arguments: Argument) -> Result:
        code = run([verb, "--cache-dir", str(cache), *map(str, arguments)], None)
        out, err = capture.readouterr()
        return Result(code, out, err.decode())

    return call
