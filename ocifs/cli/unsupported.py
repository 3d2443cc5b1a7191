"""Flags that users of similar tools type from habit and ocifs lacks: each ends in an error that says what to use.

Such a flag is hidden from the help. It fails whatever else is on the command line, with a value or without.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ocifs.cli.command import add_options

F = TypeVar("F", bound=Callable[..., Any])


def unsupported(*names: str, use: str) -> Callable[[F], F]:
    """Add the flag `names` to a command: it raises UsageError, with the alternative `use`."""

    def refuse(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise click.UsageError(f"{' / '.join(param.opts)} is not supported: {use}")

    return click.option(
        *names, "_", is_flag=False, flag_value="", hidden=True, expose_value=False, is_eager=True, callback=refuse
    )


def each_unsupported(*flags: str, use: str) -> Callable[[F], F]:
    """Add several flags with the same alternative; each is written with its synonyms: `-e --expression`."""
    return add_options([unsupported(*names.split(), use=use) for names in flags])
