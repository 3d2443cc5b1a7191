"""Flags that users of similar tools type from habit and ocifs lacks: each ends in an error that says what to use.

A table holds them, which is read when the parser knows an option not; so they cost a command that succeeds nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_TABLE = "__unsupported__"


def unsupported(*names: str, use: str) -> Callable[[F], F]:
    """Make the flag `names` of a command a usage error, which names the alternative `use`."""

    def add(command: F) -> F:
        message = f"{' / '.join(names)} is not supported: {use}"
        command.__dict__.setdefault(_TABLE, {}).update(dict.fromkeys(names, message))
        return command

    return add


def each_unsupported(*flags: str, use: str) -> Callable[[F], F]:
    """Do so for several flags with the same alternative; each is written with its synonyms: `-e --expression`."""

    def add(command: F) -> F:
        for names in flags:
            command = unsupported(*names.split(), use=use)(command)
        return command

    return add


def all_unsupported(flags: Iterable[tuple[str, str]]) -> Callable[[F], F]:
    """Do so for pairs of flags, written as for `each_unsupported`, and their alternatives."""

    def add(command: F) -> F:
        for names, use in flags:
            command = unsupported(*names.split(), use=use)(command)
        return command

    return add


def table_of(command: object) -> Mapping[str, str]:
    """Return the message for each such flag of the function of a command."""
    table: Mapping[str, str] = getattr(command, _TABLE, {})
    return table
