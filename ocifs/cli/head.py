"""`ocifs head` and `tail`: print the beginning or the end of files, decoding only the spans that hold it."""

import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from ocifs.cli.command import Command, add_options
from ocifs.cli.output import shown_name, write_bytes
from ocifs.cli.types import parse_size
from ocifs.cli.unsupported import each_unsupported, unsupported
from ocifs.cli.view import View, view_options
from ocifs.report.parts import Part, Unit, read_part, split_sign

F = TypeVar("F", bound=Callable[..., Any])

_OLD_COUNT = re.compile(r"[-+]\d{1,15}", re.ASCII)
_DEFAULT = 10


class Count(NamedTuple):
    """The argument of `-n` or `-c`."""

    sign: str
    number: int


class _CountType(click.ParamType[Count]):
    """A number, perhaps with a unit, after an optional sign."""

    name = "[+-]N"

    def convert(self, value: str | Count, param: click.Parameter | None, ctx: click.Context | None) -> Count:
        if isinstance(value, Count):
            return value
        sign, digits = split_sign(value)
        number = parse_size(digits)
        if number is None:
            self.fail(f"{value!r} is not a number; write 5, 64k or 10MiB, with + or - in front if needed", param, ctx)
        return Count(sign, number)


class _OldCounts(Command):
    """Accepts `-5` for `-n 5`, and with tail `+5` for `-n +5`, as before POSIX had options for it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite each such argument; `+5` only in front of IMAGE, since a path may have that name."""
        rewritten = list(args)
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option) and not param.is_flag]
        with_value = {name for option in options for name in option.opts}
        plus = self.name == "tail"
        place = 0
        while place < len(args) and args[place] != "--":
            word = args[place]
            if _OLD_COUNT.fullmatch(word) and (plus or word.startswith("-")):
                rewritten[place] = f"-n{word.removeprefix('-')}"
            elif not word.startswith("-"):
                plus = False
            place += 1 + (word in with_value)
        return super().parse_args(ctx, rewritten)


def _count_options(lines: str, size: str) -> Callable[[F], F]:
    """Add the options that head and tail share."""
    return add_options(
        (
            view_options,
            click.option("-n", "--lines", "lines", type=_CountType(), help=lines),
            click.option("-c", "--bytes", "size", type=_CountType(), help=size),
            click.option("-q", "--quiet", "--silent", is_flag=True, help="Print no headings for several files."),
            click.option("-v", "--verbose", is_flag=True, help="Print a heading for a single file, too."),
            unsupported("-z", "--zero-terminated", use="pipe `ocifs cat` into it with -z"),
            click.argument("paths", nargs=-1, metavar="[PATH...]"),
        )
    )


@click.command(cls=_OldCounts)
@_count_options("Print the first N lines; -N: all but the last N.  [default: 10]", "Print the first N bytes; likewise.")
def head(
    view: View, paths: tuple[str, ...], lines: Count | None, size: Count | None, quiet: bool, verbose: bool
) -> None:
    """Write the first lines, or bytes, of the files at PATH in IMAGE to standard output.

    \b
    Try:  ocifs head -5 ./debian:latest:/etc/passwd
          ocifs head -c 64 ./debian:latest:/bin/ls | od -c
    """

    def part(unit: Unit, count: Count) -> Part:
        return Part(unit, count.number, end=count.sign == "-", rest=count.sign == "-")

    _print(view, paths, _chosen(part, lines, size), quiet=quiet, verbose=verbose)


@click.command(cls=_OldCounts)
@_count_options(
    "Print the last N lines; +N: from line N on.  [default: 10]", "Print the last N bytes; +N: from byte N on."
)
@each_unsupported(
    *("-f --follow", "-F", "--retry", "--pid", "-s --sleep-interval", "--max-unchanged-stats"),
    use="the files of an image never change: leave it out",
)
@unsupported("-r", use="pipe `ocifs cat` into tac")
def tail(
    view: View, paths: tuple[str, ...], lines: Count | None, size: Count | None, quiet: bool, verbose: bool
) -> None:
    """Write the last lines, or bytes, of the files at PATH in IMAGE to standard output.

    Reads backwards from the end, so that the beginning of a large file is not decoded.

    \b
    Try:  ocifs tail -3 ./debian:latest:/etc/passwd
          ocifs tail -n +2 ./debian:latest:/etc/fstab
    """

    def part(unit: Unit, count: Count) -> Part:
        if count.sign == "+":
            return Part(unit, max(0, count.number - 1), rest=True)
        return Part(unit, count.number, end=True)

    _print(view, paths, _chosen(part, lines, size), quiet=quiet, verbose=verbose)


def _chosen(part: Callable[[Unit, Count], Part], lines: Count | None, size: Count | None) -> Part:
    if lines is not None and size is not None:
        raise click.UsageError("-n and -c exclude each other")
    return part("bytes", size) if size is not None else part("lines", lines or Count("", _DEFAULT))


def _print(view: View, paths: tuple[str, ...], part: Part, *, quiet: bool, verbose: bool) -> None:
    with view.files(paths) as (opened, several):
        for number, path in enumerate(several):
            with opened.rootfs.open(path) as file:
                if (len(several) > 1 or verbose) and not quiet:
                    write_bytes((b"\n" if number else b"") + b"==> " + shown_name(path) + b" <==\n")
                for piece in read_part(file, part):
                    write_bytes(piece)
    sys.stdout.buffer.flush()
