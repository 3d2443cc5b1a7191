"""Commands of ocifs: options in groups, one line of help for each, and one value for all options of a group.

A command lists its own options first, then its epilog, then each `OptionGroup` under its heading, and last the
environment variables with defaults. Text after a form feed in a docstring, and the `details` of an option, are for the
man page only.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, cast

import click

from ocifs.cli.types import Size
from ocifs.limits import in_units

_TERM_MAX = 25
"""Columns for the names of options; longer names take a line of their own."""

Row = tuple[str, str]


class OptionGroup(NamedTuple):
    """Options that several commands share."""

    keyword: str
    """The parameter of the command that receives the value."""
    build: Callable[[dict[str, Any]], object]
    """Makes the value from those of the options, by their names."""
    heading: str | None
    """Heading in the help; None: among the command's own options."""


class Option(click.Option):
    """An option with details for the man page."""

    def __init__(self, *declarations: Any, details: str = "", **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.details = details


class GroupedOption(Option):
    """An option of a group; the command receives the value of the group instead of its own."""

    group: ClassVar[OptionGroup]


class Command(click.Command):
    """A command with groups of options."""

    def invoke(self, ctx: click.Context) -> object:
        """Build the value of each group, and run the command."""
        for group, options in self._grouped().items():
            ctx.params[group.keyword] = group.build({option.name: ctx.params.pop(option.name) for option in options})
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, with the epilog before those that many commands share."""
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: the epilog comes among the options."""

    def _grouped(self) -> dict[OptionGroup, list[click.Option]]:
        groups: dict[OptionGroup, list[click.Option]] = {}
        for each in self.params:
            if isinstance(each, GroupedOption):
                groups.setdefault(each.group, []).append(each)
        return groups


class Group(click.Group):
    """A command with subcommands of class `Command`."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands, and the options after them."""
        self.format_commands(ctx, formatter)
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: the epilog comes after the options."""


def command(
    name: str | None = None, *, epilog: str | None = None, context_settings: dict[str, Any] | None = None
) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command of `ocifs.cli.verbs`, which states its summary."""
    return click.command(name, cls=Command, epilog=epilog, context_settings=context_settings)


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options of a command by heading, its own first, then its epilog; the names line up."""
    sections = option_sections(command, ctx)
    terms = [len(term) for rows in sections.values() for term, _ in rows]
    width = max((each for each in terms if each <= _TERM_MAX), default=0)
    for heading, rows in sections.items():
        with formatter.section(heading or "Options"):
            formatter.write_dl([(term.ljust(width), text) for term, text in rows], col_max=width)
        if heading is None:
            click.Command.format_epilog(command, ctx, formatter)
    if variables := environment(command):
        formatter.write_paragraph()
        formatter.write_text(f"Environment: {', '.join(variables)}")


def option_sections(command: click.Command, ctx: click.Context) -> dict[str | None, list[Row]]:
    """Return the (names, help) of the options that are not hidden, by heading; None: the command's own, first."""
    sections: dict[str | None, list[Row]] = {None: []}
    for each in command.get_params(ctx):
        if isinstance(each, click.Option) and not each.hidden:
            heading = each.group.heading if isinstance(each, GroupedOption) else None
            sections.setdefault(heading, []).append((option_term(each, ctx), _help_text(each)))
    own = sections.pop(None)
    return {None: own} | dict(sorted(sections.items(), key=lambda item: item[0] or ""))


def option_term(option: click.Option, ctx: click.Context) -> str:
    """Return the names of an option, the short ones first, with its metavar: `-f, --file FILE`, `--[no-]prefetch`."""
    names = sorted(option.opts, key=lambda name: name.startswith("--"))
    if option.secondary_opts:
        (no,) = option.secondary_opts
        both = f"--no-{names[-1][2:]}" == no
        names[-1] = f"--[no-]{names[-1][2:]}" if both else f"{names[-1]} / {no}"
    return " ".join([", ".join(names), *_metavar(option, ctx)])


def environment(command: click.Command) -> list[str]:
    """Return the environment variables with defaults for options of a command, sorted."""
    return sorted(cast("str", each.envvar) for each in command.params if each.envvar)


def _metavar(option: click.Option, ctx: click.Context) -> Iterator[str]:
    if option.is_flag:
        return
    if option.metavar:
        yield option.metavar
    elif isinstance(option.type, click.Choice):
        yield "|".join(option.type.choices)
    elif isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType)):
        yield "N"
    else:
        yield option.make_metavar(ctx)


def _help_text(option: click.Option) -> str:
    text = option.help or ""
    if option.required:
        return f"{text} [required]"
    return f"{text} [default: {_default(option)}]" if option.show_default else text


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    if isinstance(option.type, Size) and isinstance(option.default, int):
        return in_units(option.default)
    return str(option.default)
