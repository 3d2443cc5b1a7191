"""Commands of ocifs: options in groups, one line of help for each, and one value for all options of a group.

A command lists its own options first, then its epilog, then each `OptionGroup` under its heading, and last the
environment variables with defaults. Text after a form feed in a docstring, and the `details` of an option, are for the
man page only.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import click

from ocifs.cli.unsupported import table_of

F = TypeVar("F", bound=Callable[..., Any])

_TERM_MAX = 25
"""Columns for the names of options; longer names take a line of their own."""


def add_options(options: Iterable[Callable[[F], F]]) -> Callable[[F], F]:
    """Return a decorator that adds options, the first one at the top of the help."""

    def add(command: F) -> F:
        for option in reversed([*options]):
            command = option(command)
        return command

    return add


class OptionGroup(NamedTuple):
    """Options that several commands share."""

    keyword: str
    """The parameter of the command that receives the value."""
    build: Callable[[dict[str, Any]], object]
    """Makes the value from those of the options, by their names."""
    heading: str | None
    """Heading in the help; None: among the command's own options. One value may have options under several headings."""


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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; an unsupported option is a UsageError that says what to use."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            self.refuse_unsupported(error.option_name)
            raise

    def refuse_unsupported(self, option: str) -> None:
        """Raise UsageError if users know the option from another tool."""
        if (message := table_of(self.callback).get(option)) is not None:
            raise click.UsageError(message)

    def invoke(self, ctx: click.Context) -> object:
        """Build the value of each group, and run the command."""
        for keyword, options in self._grouped().items():
            values = {option.name: ctx.params.pop(option.name) for option in options}
            ctx.params[keyword] = options[0].group.build(values)
        return super().invoke(ctx)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help right below the usage, so that the help of `mount` fits a small terminal."""
        with formatter.indentation():
            formatter.write_text(inspect.cleandoc(self.help or "").partition("\f")[0])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, with the epilog before those that many commands share."""
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: the epilog comes among the options."""

    def _grouped(self) -> dict[str, list[GroupedOption]]:
        groups: dict[str, list[GroupedOption]] = {}
        for each in self.params:
            if isinstance(each, GroupedOption):
                groups.setdefault(each.group.keyword, []).append(each)
        return groups


class Group(click.Group):
    """A command with subcommands of class `Command`, listed in the order of their definition."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and summaries of the subcommands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(command)) for name, command in self.commands.items()])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands, and the options after them."""
        self.format_commands(ctx, formatter)
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: the epilog comes after the options."""


def command(
    *, epilog: str | None = None, context_settings: dict[str, Any] | None = None, cls: type[Command] = Command
) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command of `ocifs.cli.verbs`, which states its summary."""
    return click.command(cls=cls, epilog=epilog, context_settings=context_settings)


def summary(command: click.Command) -> str:
    """Return the summary of a command, else the first paragraph of its help."""
    return command.short_help or " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options of a command by heading, its own first, then its epilog; the names line up."""
    sections = {
        heading: [(option_term(option, ctx), help_text(option)) for option in options]
        for heading, options in option_sections(command, ctx).items()
    }
    lengths = [len(term) for rows in sections.values() for term, _ in rows]
    width = max((each for each in lengths if each <= _TERM_MAX), default=0)
    for heading, rows in sections.items():
        with formatter.section(heading or "Options"):
            formatter.write_dl([(term.ljust(width), text) for term, text in rows], col_max=width)
        if heading is None:
            click.Command.format_epilog(command, ctx, formatter)
    shared = {option for heading, options in option_sections(command, ctx).items() if heading for option in options}
    if variables := environment(command, without=shared):
        formatter.write_text(f"Environment: {', '.join(variables)}")


def option_sections(command: click.Command, ctx: click.Context) -> dict[str | None, list[click.Option]]:
    """Return the options that are not hidden, by heading; None: the command's own, first.

    The groups follow from the innermost to the outermost decorator.
    """
    sections: dict[str | None, list[click.Option]] = {}
    for each in command.get_params(ctx):
        if isinstance(each, click.Option) and not each.hidden:
            sections.setdefault(each.group.heading if isinstance(each, GroupedOption) else None, []).append(each)
    own = sections.pop(None, [])
    return {None: own, **dict(reversed(sections.items()))}


def option_term(option: click.Option, ctx: click.Context) -> str:
    """Return the names of an option, the short ones first, with its metavar: `-f, --file FILE`, `--[no-]prefetch`."""
    names = sorted(option.opts, key=lambda name: name.startswith("--"))
    if option.secondary_opts:
        yes, no = names[-1], option.secondary_opts[-1]
        names[-1] = f"--[no-]{yes[2:]}" if no == f"--no-{yes[2:]}" else f"{yes} / {no}"
    return " ".join([", ".join(names), *_metavar(option, ctx)])


def environment(command: click.Command, *, without: Collection[click.Option] = ()) -> dict[str, str]:
    """Return the environment variables that set defaults, sorted, with the option of each."""
    options = [each for each in command.params if isinstance(each, click.Option) and each.envvar]
    options = [each for each in options if each not in without]
    return dict(sorted((cast("str", each.envvar), max(each.opts, key=len)) for each in options))


def help_text(option: click.Option, *, detailed: bool = False) -> str:
    """Return the help of an option, with its default in brackets: one line, or `detailed` for the man page."""
    text = option.help or ""
    if detailed and isinstance(option, Option) and option.details:
        text += f" {option.details}"
    if option.required:
        return f"{text} [required]"
    return f"{text} [default: {_default(option)}]" if option.show_default else text


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


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    if option.type.name == "size" and isinstance(option.default, int):
        from ocifs.limits import in_units

        return in_units(option.default)
    return str(option.default)
