"""Every option that a tool of the same kind lists in its help works, or says what to use instead."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import click
import pytest

from ocifs.cli.unsupported import table_of
from ocifs.cli.verbs import cli

_OPTION = re.compile(r"(?<![\w-])(--[a-z][\w-]+|-[A-Za-z0-9])(?![\w-])")
_OWN = {"--help", "--version", "-V"}
"""These are ocifs' own."""
_AS_WORDS = {
    "grep": {"-NUM"},
    "tree": {"--"},
    "diff": {"-v", "--GTYPE-group-format", "--LTYPE-line-format", "--LFMT"},
}
"""What a help calls so is not typed so."""


def _listed(tool: str) -> Iterator[str]:
    """Yield the options at the beginning of the lines of a help."""
    command = ["podman", "run", "--help"] if tool == "podman" else [tool, "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C", "HOME": "/nowhere"})
    for line in (ran.stdout or ran.stderr).splitlines():
        begin = re.match(r"\s{1,8}(-.*?)(?:\s{2,}|:|$)", line)
        if begin:
            yield from _OPTION.findall(begin[1])


def _known(verb: str) -> set[str]:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    named = [name for param in command.params for name in (*param.opts, *param.secondary_opts)]
    return {*named, *table_of(command.callback)}


@pytest.mark.parametrize(
    ("tool", "verb"),
    [(name, name) for name in ("ls", "du", "grep", "diff", "cat", "head", "tail", "cp", "stat", "tree")]
    + [("podman", "run"), ("podman", "bundle")],
)
def test_each_option_is_known(tool: str, verb: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is missing")
    listed = set(_listed(tool)) - _OWN - _AS_WORDS.get(tool, set())
    assert len(listed) >= 6
    assert sorted(listed - _known(verb)) == []
