"""What the commands accept, as far as completion needs to know it: the types of `ocifs.cli.complete.commands`."""

from typing import Literal, NamedTuple

ValueKind = Literal["file", "image", "path", "path or file", "layer", "mountpoint", "limit", "platform", "none"]
"""What a value is. `path`: inside the image; `path or file`: inside the image if absolute; `file` is also anything
unknown, so that the shell completes files."""

Value = ValueKind | tuple[str, ...]
"""A kind, or the choices."""


ELSEWHERE = ("docker://", "https://", "http://", "docker-daemon:", "containers-storage:")
"""Beginnings of references to images that are not in a file or directory of this machine."""


class OptionModel(NamedTuple):
    """An option. A flag takes no value."""

    names: tuple[str, ...]
    value: Value | None
    help: str


class CommandModel(NamedTuple):
    """A command or a group of commands."""

    help: str
    options: tuple[OptionModel, ...]
    arguments: tuple[Value, ...] = ()
    """The arguments in order; the last one of a command that takes any number repeats."""
    repeats: bool = False
    ends_options: bool = False
    """Whether options are not recognised after the first argument."""
    subcommands: tuple[str, ...] = ()


RawCommand = tuple[
    str, tuple[tuple[tuple[str, ...], Value | None, str], ...], tuple[Value, ...], bool, bool, tuple[str, ...]
]
"""The fields of a `CommandModel`, and of its options, as constants."""


def command_of(raw: RawCommand) -> CommandModel:
    """Return a command from its constants."""
    return CommandModel(raw[0], tuple(OptionModel(*option) for option in raw[1]), *raw[2:])


class Completion(NamedTuple):
    """What the whole word can become."""

    word: str
    help: str = ""
    is_whole: bool = True
    """Whether nothing can follow, so that the shell appends a space."""
