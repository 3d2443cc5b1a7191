"""Shell code in the documentation that no test runs: its syntax is correct, and so is every command line of ocifs."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.docs.command_lines import commands, parse
from tests.docs.console import blocks, fences

_ROOT = Path(__file__).parents[2]


def _code() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each block for the shell, and of each console block that is not run."""
    for page in [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *sorted(_ROOT.glob("docs/**/*.md"))]:
        text, name = page.read_text(), page.relative_to(_ROOT)
        for fence in fences(text):
            if fence.language == "sh":
                yield f"{name}:{fence.line}", fence.text
        for block in blocks(text):
            if block.reason is not None:
                yield f"{name}:{block.line}", "\n".join(step.command for step in block.steps)


CODE = dict(_code())


def test_there_is_code() -> None:
    assert len(CODE) >= 20
    assert sum(len(list(commands(text))) for text in CODE.values()) >= 20


@pytest.mark.parametrize("place", CODE)
def test_the_syntax_is_correct(place: str) -> None:
    subprocess.run(["sh", "-n"], input=CODE[place], text=True, check=True)
    if shutil.which("shellcheck") is not None:
        code = f"#!/bin/sh\n{CODE[place]}\n"
        subprocess.run(["shellcheck", "--severity=warning", "-"], input=code, text=True, check=True)


@pytest.mark.parametrize("place", CODE)
def test_every_option_of_ocifs_exists(place: str) -> None:
    for words in commands(CODE[place]):
        parse(words)


@pytest.mark.parametrize(
    "line", ["x && ocifs index push --all-tag docker://x/y | cat", "A=b ocifs mount --engin fuse x y  # so"]
)
def test_a_wrong_option_is_detected(line: str) -> None:
    (words,) = commands(line)
    with pytest.raises(click.UsageError):
        parse(words)
