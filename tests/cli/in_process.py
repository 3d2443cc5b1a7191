"""Commands run in the process of the test: a table of options costs no start of an interpreter for each row."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.cli.verbs import run
from tests.cli.command import Argument, Result

Run = Callable[..., Result]


def running(capture: pytest.CaptureFixture[bytes], cache: Path | None = None) -> Run:
    """Return what runs `ocifs VERB ARGUMENTS...`, with that cache or the user's; stdout is no terminal."""
    options = [] if cache is None else ["--cache-dir", str(cache)]

    def call(verb: str, *arguments: Argument) -> Result:
        code = run([verb, *options, *map(str, arguments)], None)
        out, err = capture.readouterr()
        return Result(code, out, err.decode())

    return call
