"""`ocifs grep`: search the files of an image without a mount."""

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import click

from ocifs.cli.command import Command, add_options
from ocifs.cli.exit_status import NO, YES, failures_not_as_no
from ocifs.cli.options import json_option, tell
from ocifs.cli.output import ColourWhen, Output, colour_option, with_colour_argument
from ocifs.cli.progress import Bars, bars
from ocifs.cli.unsupported import unsupported
from ocifs.cli.view import View, view_options
from ocifs.errors import NotFoundError, printable_path
from ocifs.image.glob import expand
from ocifs.image.rootfs import Rootfs
from ocifs.report.grep import FileNames
from ocifs.report.grep import grep as search
from ocifs.report.grep_text import GrepFormat, Printed, Wanted, colours
from ocifs.report.pattern import Matching, Pattern, Syntax
from ocifs.report.selected_lines import Selection

F = TypeVar("F", bound=Callable[..., Any])

_MAX_PATTERNS = 1 << 20
"""Bytes of patterns."""
_BASIC = re.compile(rb"\\[|(){+?]")
"""Operators of basic regular expressions, which are text in the others."""


class _Grep(Command):
    """A command whose PATTERN is missing if an option holds the patterns."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = with_colour_argument(args)
        try:
            given, _, _ = self.make_parser(ctx).parse_args(list(args))
        except click.UsageError:  # the command reports it
            given = {}
        if given.keys() & {"patterns", "pattern_files"}:
            args = ["", *args]
        return super().parse_args(ctx, args)


def _flag(*names: str, help: str, **more: Any) -> Callable[[F], F]:  # noqa: A002 - as click names it
    return click.option(*names, is_flag=True, help=help, **more)


_SYNTAXES = (
    _flag(
        "-E", "--extended-regexp", "syntax", flag_value="extended", help="PATTERN is an extended regular expression."
    ),
    _flag("-G", "--basic-regexp", "syntax", flag_value="basic", help="PATTERN is a basic one, as in plain grep."),
    _flag("-P", "--perl-regexp", "syntax", flag_value="python", help="PATTERN is Python's, like Perl's. [default]"),
    _flag("-F", "--fixed-strings", "syntax", flag_value="fixed", help="PATTERN is text, not a regular expression."),
)
_CHOICE_OF_LINES = (
    click.option("-e", "--regexp", "patterns", multiple=True, metavar="PATTERN", help="A pattern (repeatable)."),
    click.option(
        "-f", "--file", "pattern_files", multiple=True, metavar="FILE", help="Read patterns from a host file."
    ),
    _flag("-i", "-y", "--ignore-case", "ignore_case", help="Ignore the case of ASCII letters."),
    _flag("-v", "--invert-match", "invert", help="Select the lines that do not match."),
    _flag("-w", "--word-regexp", "words", help="Match whole words only."),
    _flag("-x", "--line-regexp", "whole_lines", help="Match whole lines only."),
    _flag("-z", "--null-data", "null", help="Lines end with NUL, in files and output."),
)
_SHOWN = (
    _flag("-c", "--count", help="Print only the number of lines of each file."),
    _flag("-l", "--files-with-matches", "with_match", help="Print only the names of files with a match."),
    _flag("-L", "--files-without-match", "without_match", help="Print only the names of files without a match."),
    click.option(
        "-m", "--max-count", "most", type=click.IntRange(min=0), metavar="N", help="Stop a file after N lines."
    ),
    _flag("-o", "--only-matching", "parts", help="Print only the matching parts of lines."),
    _flag("-q", "--quiet", "--silent", help="Print nothing, and exit at the first match."),
    _flag("-s", "--no-messages", "silent", help="Skip missing paths without a message."),
    _flag("-n", "--line-number", "numbers", help="Print line numbers."),
    _flag("-H", "--with-filename", "named", flag_value=True, help="Print file names. [default: of several files]"),
    _flag("-h", "--no-filename", "named", flag_value=False, default=None, help="Print no file names."),
    _flag("-Z", "--null", "null_names", help="Print NUL after file names."),
    click.option("-A", "--after-context", "after", type=click.IntRange(0), metavar="N", help="Print N lines after."),
    click.option("-B", "--before-context", "before", type=click.IntRange(0), metavar="N", help="Print N lines before."),
    click.option("-C", "--context", type=click.IntRange(0), metavar="N", help="Print N lines before and after."),
    click.option(
        "--group-separator",
        "separator",
        default="--",
        metavar="TEXT",
        help="Text between groups of lines. [default: --]",
    ),
    _flag("--no-group-separator", "separator", flag_value=None, help="Print nothing between groups of lines."),
)
_FILES = (
    _flag("-a", "--text", help="Treat binary files as text."),
    _flag("-I", "skip_binary", help="Skip binary files."),
    click.option("--include", multiple=True, metavar="GLOB", help="Search only files of such a name (repeatable)."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Skip files of such a name (repeatable)."),
    click.option("--exclude-dir", multiple=True, metavar="GLOB", help="Skip directories of such a name (repeatable)."),
    _flag(
        "-r",
        "-R",
        "--recursive",
        "--dereference-recursive",
        expose_value=False,
        help="Accepted: directories are always searched.",
    ),
    _flag("--line-buffered", "-U", "--binary", expose_value=False, hidden=True, help="Accepted: has no effect."),
)
_LACKED = (
    unsupported("--exclude-from", use="name each: --exclude GLOB"),
    unsupported("--label", use="there is no standard input: names are paths in the image"),
    unsupported("--no-ignore-case", use="leave -i out"),
    unsupported("-b", "--byte-offset", use="mount the image and use grep(1)"),
    unsupported("-T", "--initial-tab", use="pipe the output to `sed`"),
    unsupported("-d", "--directories", "-D", "--devices", use="only regular files are searched"),
    unsupported("--binary-files", use="write -a for text, -I for without-match"),
    *(unsupported(f"-{number}", use="write -C N for N lines of context") for number in range(10)),
)


@click.command(cls=_Grep)
@click.argument("pattern")
@view_options
@add_options((*_SYNTAXES, *_CHOICE_OF_LINES, *_SHOWN, *_FILES, *_LACKED))
@colour_option
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def grep(
    view: View,
    pattern: str,
    patterns: tuple[str, ...],
    pattern_files: tuple[str, ...],
    paths: tuple[str, ...],
    syntax: Syntax | None,
    ignore_case: bool,
    invert: bool,
    words: bool,
    whole_lines: bool,
    null: bool,
    count: bool,
    with_match: bool,
    without_match: bool,
    most: int | None,
    parts: bool,
    quiet: bool,
    silent: bool,
    numbers: bool,
    named: bool | None,
    null_names: bool,
    after: int | None,
    before: int | None,
    context: int | None,
    separator: str | None,
    text: bool,
    skip_binary: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    exclude_dir: tuple[str, ...],
    colour: ColourWhen,
    as_json: bool,
) -> int:
    """Print the lines that match PATTERN in the files at and below each PATH of IMAGE [default: /].

    The exit status is 0 if a line is selected, and 1 if none is. Files come in the order of the layers, so that each
    span is decoded once.

    \b
    Try:  ocifs grep -n '^PermitRoot' ./debian:latest /etc
          ocifs grep -lF libssl.so.3 ./debian:latest /usr/lib
          ocifs grep -C 2 -e warn -e error --include '*.py' ./debian:latest
    """
    source = _patterns(pattern, patterns, pattern_files)
    how = Matching(syntax or "python", ignore_case, words, whole_lines, null)
    wanted: Wanted = "names without" if without_match else "names" if with_match else "counts" if count else "lines"
    selection = Selection(invert=invert, most=most)
    if wanted == "lines" and not quiet:
        both = context or 0
        selection = Selection(invert, both if before is None else before, both if after is None else after, most)
    grouped = separator is not None and (selection.before or selection.after)
    output = Output(null, colour)
    searched_paths = view.paths(paths, "/")
    with failures_not_as_no(), view.open() as opened, bars() as drawn:
        starts, missing = _starts(opened.rootfs, searched_paths)
        if missing and not (silent or quiet):
            raise missing
        regex = _compile(source, how)
        form = GrepFormat(
            wanted, _names_files(opened.rootfs, starts) if named is None else named, numbers, parts, invert, text,
            skip_binary, os.fsencode(separator or "") if grouped else None, null, null_names, as_json,
        )  # fmt: skip
        paint = colours(os.environ.get("GREP_COLORS", "")) if output.is_coloured else None
        printed = Printed(regex, form, output.show, output.text, paint)
        progress = partial(drawn.advance, "searching") if drawn else None
        searched = search(opened.rootfs, starts, regex, FileNames(include, exclude, exclude_dir), selection, progress)
        if quiet:
            if any(any(printed.records(file)) or printed.any for file in searched):
                return YES
            if missing and not silent:
                raise missing
        else:
            _write((record for file in searched for record in printed.records(file)), drawn)
        if not (printed.any or missing):
            _hint(source, how)
    if missing:
        return missing.exit_code
    return YES if printed.any else NO


def _patterns(pattern: str, patterns: Sequence[str], files: Sequence[str]) -> bytes | None:
    """Return all patterns, each on a line; None: there are none. Raises UsageError."""
    if not patterns and not files:
        return os.fsencode(pattern)
    lines = [os.fsencode(each) for each in patterns]
    for name in files:
        try:
            with sys.stdin.buffer if name == "-" else open(name, "rb") as file:
                data = file.read(_MAX_PATTERNS + 1)
        except OSError as error:
            raise click.UsageError(f"-f {printable_path(name)}: {error.strerror}") from None
        if len(data) > _MAX_PATTERNS:
            raise click.UsageError(f"-f {printable_path(name)}: patterns have at most {_MAX_PATTERNS >> 20} MiB")
        lines += [data.removesuffix(b"\n")] if data else []
    return b"\n".join(lines) if lines else None


def _compile(source: bytes | None, how: Matching) -> Pattern:
    """Compile the patterns. Raises UsageError."""
    try:
        return Pattern(source, how)
    except (re.error, OverflowError, RecursionError) as error:
        way_out = "" if how.syntax == "basic" else ": -F searches for text, -G takes the patterns of plain grep"
        raise click.UsageError(f"PATTERN: {error}{way_out}") from None


def _starts(rootfs: Rootfs, paths: Sequence[bytes]) -> tuple[list[bytes], NotFoundError | None]:
    """Return the paths that exist, and the error of the first one that does not."""
    found: list[bytes] = []
    missing = None
    for path in paths:
        try:
            expanded = expand(rootfs, [path])
            for each in expanded:
                rootfs.lookup(each)
        except NotFoundError as error:
            missing = missing or error
        else:
            found += expanded
    return found, missing


def _names_files(rootfs: Rootfs, starts: Sequence[bytes]) -> bool:
    """Whether more than one file may be searched."""
    return len(starts) != 1 or stat.S_ISDIR(rootfs.tree.inode(rootfs.lookup(starts[0])).mode)


def _write(records: Iterator[bytes], drawn: Bars | None) -> None:
    """Write records to stdout; if it shares the terminal with the bars, in their place."""
    out = sys.stdout.buffer
    shared = drawn if sys.stdout.isatty() else None
    for record in records:
        if shared:
            shared.hide()
        out.write(record)
        if shared:
            out.flush()
    out.flush()


def _hint(source: bytes | None, how: Matching) -> None:
    """Say what may be wrong with a pattern that matches nothing."""
    if how.syntax in {"python", "extended"} and (found := _BASIC.search(source or b"")):
        text = os.fsdecode(found[0])
        tell(
            f"nothing matches; {text} is the character {text[1]} in such a pattern: -G takes the patterns of plain grep"
        )
