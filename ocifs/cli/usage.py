"""Usage errors as lines for stderr: what is wrong, and the usage if the command line has the wrong form.

A wrong value takes one line, which names the option, or the environment variable that the value comes from. What a
command itself refuses, such as options that exclude each other, takes one line too.
"""

from collections.abc import Iterable, Iterator

import click
from click.core import ParameterSource

from ocifs.cli.habits import INSTEAD
from ocifs.errors import printable_path


def usage_lines(error: click.UsageError) -> Iterator[str]:
    """Yield the lines of the message."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        yield error.format_message()
        return
    yield f"ocifs: {printable_path(_message(error))}"
    if error.ctx is not None and _is_of_form(error):
        path = error.ctx.command_path
        usage = error.ctx.get_usage().replace("\n", " ")
        yield f"{' '.join(usage.split())} (see `ocifs help{path.removeprefix('ocifs')}`)"


def _is_of_form(error: click.UsageError) -> bool:
    """Whether a parameter is missing, or the parser of click, which sets `cmd`, does not accept the words."""
    if isinstance(error, click.BadParameter):
        return isinstance(error, click.MissingParameter)
    return error.cmd is not None


def _message(error: click.UsageError) -> str:
    match error:
        case click.NoSuchOption():
            return f"no such option: {error.option_name}{_did_you_mean(error.option_name, _options(error.ctx))}"
        case click.exceptions.NoSuchCommand():
            instead = f": {INSTEAD[name]}" if (name := error.command_name) in INSTEAD and _is_top(error.ctx) else None
            return f"no such command: {name}{instead or _did_you_mean(name, _commands(error.ctx))}"
        case click.MissingParameter():
            return f"missing {error.param_type or _kind(error.param)} {_name(error)}"
        case click.BadParameter():
            return f"{_name(error)}: {_sentence(error.message)}"
        case _:
            return _sentence(error.format_message())


def _name(error: click.BadParameter) -> str:
    """Return the name of a parameter as the user wrote it: an option, a variable, or an argument."""
    if error.param is None or error.ctx is None:
        hint = error.param_hint or ""
        return hint.strip("'") if isinstance(hint, str) else " / ".join(hint)
    if error.ctx.get_parameter_source(error.param.name) is ParameterSource.ENVIRONMENT:
        return str(error.param.envvar)
    if isinstance(error.param, click.Option):
        return max(error.param.opts, key=len)
    return error.param.human_readable_name


def _kind(param: click.Parameter | None) -> str:
    return param.param_type_name if param else "parameter"


def _sentence(text: str) -> str:
    """Return a sentence of click as part of a message: without capital letter and full stop."""
    return (text[:1].lower() + text[1:]).removesuffix(".")


def _options(ctx: click.Context | None) -> list[str]:
    """Return the long options that are not hidden."""
    options = [each for each in ctx.command.get_params(ctx) if isinstance(each, click.Option)] if ctx else []
    return [name for each in options if not each.hidden for name in (*each.opts, *each.secondary_opts)]


def _commands(ctx: click.Context | None) -> list[str]:
    return ctx.command.list_commands(ctx) if ctx and isinstance(ctx.command, click.Group) else []


def _is_top(ctx: click.Context | None) -> bool:
    return ctx is not None and ctx.parent is None


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    names = {name.lstrip("-"): name for name in known}
    close = [names[name] for name in get_close_matches(word.lstrip("-"), names)]
    return f": did you mean {' or '.join(close)}?" if close else ""
