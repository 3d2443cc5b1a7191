"""Types of option values: sizes, resource limits, platforms."""

import re
from typing import NoReturn

import click
from click.core import ParameterSource

from ocifs.errors import NotFoundError
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.spec.platform import Platform

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,15})\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int | None:
    """Parse a number with an optional unit, a power of 1024; return None if it is not one."""
    match = _SIZE.fullmatch(text.strip())
    return int(match[1]) * _UNITS[match[2].lower()] if match else None


class Size(click.ParamType[int]):
    """A number of bytes: `64MiB`, `10g`, `4096`. Units are powers of 1024."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse."""
        if isinstance(value, int):
            return value
        size = parse_size(value)
        if size is None:
            self.fail(f"{value!r} is not a size; write 64MiB or 10GiB", param, ctx)
        return size


class LimitType(click.ParamType[tuple[str, int]]):
    """NAME=VALUE: a new value for a limit. `help` prints all limits and exits."""

    name = "NAME=VALUE"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Parse."""
        if isinstance(value, tuple):
            return value
        if value == "help" and ctx and param and _is_typed(param, ctx):
            _show_limits(ctx)
        name, _, number = value.partition("=")
        field = name.strip().replace("-", "_")
        if field not in Limits.__struct_fields__:
            self.fail(f"{name!r} is not a limit; --limit help lists them", param, ctx)
        size = parse_size(number)
        if size is None:
            self.fail(f"{number!r} is not a number; write {name}=5000000 or {name}=64MiB", param, ctx)
        return field, size


class PlatformType(click.ParamType[Platform]):
    """OS/ARCH[/VARIANT]."""

    name = "platform"

    def convert(self, value: str | Platform, param: click.Parameter | None, ctx: click.Context | None) -> Platform:
        """Parse."""
        try:
            return value if isinstance(value, Platform) else Platform.parse(value)
        except NotFoundError as error:
            self.fail(str(error), param, ctx)


def _is_typed(param: click.Parameter, ctx: click.Context) -> bool:
    return ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE and not ctx.resilient_parsing


def _show_limits(ctx: click.Context) -> NoReturn:
    """Print each limit with its default and meaning, and exit."""
    formatter = ctx.make_formatter()
    formatter.write_dl([(DEFAULT_LIMITS.setting(name), meaning) for name, meaning in Limits.meanings().items()])
    click.echo(formatter.getvalue(), nl=False)
    ctx.exit()
