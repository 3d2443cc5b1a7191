"""Find the command lines of ocifs in shell code, and parse them without running them."""

import re
import shlex
from collections.abc import Iterator

import click

from ocifs.cli.verbs import cli

_DIRECTORY = re.compile(r"\$\{?PWD\b\}?")
_PLACEHOLDER = re.compile(r"\$\{\{[^}]*\}\}|\$\{?\w+\}?")
_SEPARATORS = {"&&", "||", "|", "&", ";", "!", "]", "--", "then", "do", "sudo"}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of ocifs in shell code, without `ocifs`."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] | None = None
        begins = True
        filled = _PLACEHOLDER.sub("placeholder", _DIRECTORY.sub("/", line))
        for word in [*shlex.split(filled, comments=True), "&&"]:
            if word in _SEPARATORS and not (words and word == "--"):
                if words:
                    yield words
                words, begins = None, True
            elif words is not None:
                if not word.startswith((">", "<", "2>")):
                    words.append(word)
            elif begins and (word == "ocifs" or word.endswith("/bin/ocifs")):
                words = []
            else:
                begins = begins and re.match(r"\w+=", word) is not None


def parse(words: list[str]) -> None:
    """Parse a command line down to the last subcommand. Raises UsageError."""
    command: click.Command = cli
    context = click.Context(cli, info_name="ocifs", **cli.context_settings)
    while isinstance(command, click.Group):
        command.parse_args(context, list(words))  # `ocifs index` adds its default command
        name, resolved, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert resolved is not None
        command, context = resolved, click.Context(resolved, context, info_name=name)
    command.parse_args(context, list(words))
