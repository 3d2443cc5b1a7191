"""Manual pages of all commands, in man(7): the text of their help, with the details that the help leaves out.

`python -m ocifs.cli.man DIR` writes ocifs.1, ocifs-mount.1 and so on into DIR. The same version always yields the same
pages. Packages install them in share/man/man1.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ocifs.cli.command import environment, help_text, option_sections, option_term, summary
from ocifs.cli.verbs import VERBS, cli
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.version import __version__

_SPECIAL = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})


def pages() -> Iterator[tuple[str, str]]:
    """Yield (file name, text) for each command and subcommand."""
    yield from _pages(click.Context(cli, info_name="ocifs", **cli.context_settings))


def write_pages(directory: Path) -> list[Path]:
    """Write all pages into a directory, which is made if missing; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages():
        written.append(directory / name)
        written[-1].write_text(text, encoding="utf-8")
    return written


def _pages(context: click.Context) -> Iterator[tuple[str, str]]:
    yield f"{_title(context)}.1", "\n".join(_page(context)) + "\n"
    for child in _subcommands(context):
        yield from _pages(child)


def _subcommands(context: click.Context) -> Iterator[click.Context]:
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is not None and not command.hidden:
                yield click.Context(command, info_name=name, parent=context)


def _title(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(context: click.Context) -> Iterator[str]:
    command = context.command
    text, examples = _split_examples(inspect.cleandoc(command.help or ""))
    short = summary(command)
    yield f'.TH {_title(context).upper()} 1 "" "ocifs {__version__}" "ocifs manual"'
    yield ".SH NAME"
    yield f"{_escape(_title(context))} \\- {_escape(short[:1].lower() + short[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_escape(context.command_path)}"
    yield _line(" ".join(command.collect_usage_pieces(context)))
    yield ".SH DESCRIPTION"
    yield from _blocks(text)
    yield from _blocks(inspect.cleandoc(command.epilog or ""))
    if command is cli:
        yield from _groups()
    else:
        for child in _subcommands(context):
            yield from _entry(f"\\fB{_escape(_title(child))}\\fR(1)", summary(child.command))
    yield from _options(context)
    if variables := environment(command):
        yield ".SH ENVIRONMENT"
        for variable, option in variables.items():
            yield from _entry(f"\\fB{variable}\\fR", f"Default of {option}.")
    if command is cli:
        yield ".SH LIMITS"
        yield _line("The resource limits for --limit, with their defaults. Raise them for an image that you trust.")
        for name, meaning in Limits.meanings().items():
            yield from _entry(f"\\fB{_escape(DEFAULT_LIMITS.setting(name))}\\fR", f"{meaning}.")
    if examples:
        yield ".SH EXAMPLES"
        yield from _verbatim(examples)
    if context.parent is not None:
        yield ".SH SEE ALSO"
        yield f"\\fB{_escape(_title(context.parent))}\\fR(1)"


def _groups() -> Iterator[str]:
    """Yield the commands under their headings."""
    yield ".SH COMMANDS"
    for heading, verbs in VERBS.items():
        yield f".SS {heading}"
        for name, verb in verbs.items():
            yield from _entry(f"\\fBocifs\\-{name}\\fR(1)", verb.summary)


def _options(context: click.Context) -> Iterator[str]:
    for heading, options in option_sections(context.command, context).items():
        yield f".SH {(heading or 'Options').upper()}"
        for option in options:
            term = re.sub(r"--?[\w\[\]-]*\w", lambda name: f"\\fB{_escape(name[0])}\\fR", option_term(option, context))
            yield from _entry(term, help_text(option, detailed=True))


def _entry(term: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield term
    yield _line(text)


def _split_examples(text: str) -> tuple[str, list[str]]:
    """Split the examples, a block that begins with `Try:`, from a docstring."""
    before, mark, rest = text.partition("\b\nTry:")
    if not mark:
        return text, []
    block, _, after = re.sub("\n?\f", "\n\n", rest, count=1).partition("\n\n")
    return f"{before}\n\n{after}", [line.strip() for line in block.splitlines()]


def _blocks(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring; one that begins with a backspace is verbatim, as in click."""
    for paragraph in re.split(r"\n\s*\n", text.replace("\f", "\n")):
        lines = paragraph.strip("\n").splitlines()
        if lines and lines[0].strip() == "\b":
            yield from _verbatim(lines[1:])
        elif lines:
            yield ".PP"
            yield _line(" ".join(line.strip() for line in lines))


def _verbatim(lines: list[str]) -> Iterator[str]:
    yield ".PP"
    yield ".nf"
    yield from map(_line, lines)
    yield ".fi"


def _line(text: str) -> str:
    """Escape a line, which must not begin with a control character of roff."""
    escaped = _escape(text)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def _escape(text: str) -> str:
    return text.translate(_SPECIAL)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
