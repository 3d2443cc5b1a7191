"""Output of lines and names: raw to a program; without control characters and in colour to a terminal."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import click

from ocifs.cli.command import Option
from ocifs.errors import printable
from ocifs.report.listing import Listed, Paint, Show, unpainted

F = TypeVar("F", bound=Callable[..., Any])

ColourWhen = Literal["auto", "always", "never"]

null_option = click.option("-z", "--null", "null", is_flag=True, help="End lines with NUL, and print names unchanged.")
human_option = click.option("-h", "--human-readable", "human", is_flag=True, help="Print sizes with a unit: 1.5K, 20M.")
colour_option = click.option(
    "--color",
    "--colour",
    "colour",
    cls=Option,
    type=click.Choice(["auto", "always", "never"]),
    metavar="WHEN",
    default="auto",
    show_default=True,
    help="Colours: auto, always or never.",
    details="auto: on a terminal, unless NO_COLOR is set. Names have the colours of LS_COLORS.",
)


class Output(NamedTuple):
    """Prints lines."""

    null: bool = False
    """Whether to end lines with NUL instead of a newline, for programs."""
    colour: ColourWhen = "never"

    @property
    def show(self) -> Show:
        """Converts a name to its printable form."""
        return _escaped if not self.null and sys.stdout.isatty() else bytes

    def text(self, line: bytes) -> bytes:
        """Return a line of file content: on a terminal, without control characters other than tabs."""
        return line if self.null else b"\t".join(map(shown_name, line.split(b"\t")))

    @property
    def is_coloured(self) -> bool:
        """Whether to print in colour."""
        return self.colour == "always" or (self.colour == "auto" and _wants_colour())

    @property
    def paint(self) -> Paint:
        """Colours names."""
        if self.is_coloured:
            from ocifs.report.colour import painter

            return painter(os.environ.get("LS_COLORS", ""))
        return unpainted

    def name(self, entry: Listed) -> bytes:
        """Return the printable, coloured name of a file."""
        return self.paint(self.show(entry.name), entry)

    def lines(self, lines: Iterable[bytes]) -> None:
        """Write lines."""
        end = b"\0" if self.null else b"\n"
        sys.stdout.buffer.writelines(line + end for line in lines)
        sys.stdout.buffer.flush()


def with_colour_argument(arguments: list[str]) -> list[str]:
    """Return command-line arguments with a value for each `--color` and `--colour` without one, as in GNU tools."""
    completed: list[str] = []
    for place, word in enumerate(arguments):
        if word == "--":
            return completed + arguments[place:]
        follows = arguments[place + 1 : place + 2]
        bare = word in {"--color", "--colour"} and not set(follows) & set(get_args(ColourWhen))
        completed.append(f"{word}=auto" if bare else word)
    return completed


def write_bytes(data: bytes) -> None:
    """Write bytes to stdout unchanged."""
    sys.stdout.buffer.write(data)


def shown_name(name: bytes) -> bytes:
    """Return a name for stdout: raw for a program, without control characters for a terminal."""
    return _escaped(name) if sys.stdout.isatty() else name


def terminal_width() -> int | None:
    """Return the columns of the terminal that is stdout; None if it is not a terminal, and nothing is to be cut."""
    if not sys.stdout.isatty():
        return None
    from shutil import get_terminal_size

    return get_terminal_size().columns


def _escaped(name: bytes) -> bytes:
    return printable(name).encode(errors="replace")


def _wants_colour() -> bool:
    """Return whether stdout is a terminal that shows colours (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
