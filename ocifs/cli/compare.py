"""`ocifs diff`: compare two images, or one image with and without its last layers."""

import fnmatch
import os
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
from typing import Any, Literal, TypeVar

import click

from ocifs.cli.command import Command, add_options
from ocifs.cli.exit_status import NO, YES, failures_not_as_no
from ocifs.cli.options import image_options, json_option, open_image
from ocifs.cli.output import ColourWhen, Output, colour_option, null_option, with_colour_argument
from ocifs.cli.progress import working
from ocifs.cli.unsupported import each_unsupported, unsupported
from ocifs.errors import NotFoundError
from ocifs.image.rootfs import Rootfs
from ocifs.options import Options
from ocifs.report.difference import ASPECTS, Aspect, differences

F = TypeVar("F", bound=Callable[..., Any])

Starts = tuple[int | None, int | None]


class Aspects(click.ParamType[frozenset[Aspect]]):
    """A comma-separated list of aspects."""

    name = "aspects"

    def convert(
        self, value: str | frozenset[Aspect], param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[Aspect]:
        """Parse."""
        if isinstance(value, frozenset):
            return value
        words = value.split(",")
        if unknown := [word for word in words if word not in ASPECTS]:
            self.fail(f"{unknown[0]!r} is not one of {', '.join(ASPECTS)}", param, ctx)
        return frozenset(aspect for aspect in ASPECTS if aspect in words)


class _Diff(Command):
    """A command with the option --color, whose value may be missing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_colour_argument(args))


_TEXT_OPTIONS = (
    click.option("-u", "--unified", is_flag=True, help="Print the differing lines of all text files."),
    click.option("-U", "context", type=click.IntRange(0), metavar="N", help="Like -u, with N lines of context."),
    click.option("-i", "--ignore-case", is_flag=True, help="Ignore the case of ASCII letters in text files."),
    click.option("-w", "--ignore-all-space", "all_space", is_flag=True, help="Ignore white space in text files."),
    click.option("-b", "--ignore-space-change", "space_change", is_flag=True, help="Ignore the amount of space."),
    click.option("-B", "--ignore-blank-lines", "ignore_blank", is_flag=True, help="Ignore empty lines."),
    click.option("--strip-trailing-cr", "ignore_cr", is_flag=True, help="Ignore carriage returns at line ends."),
    click.option("-a", "--text", is_flag=True, help="Treat binary files as text."),
    click.option("-x", "--exclude", multiple=True, metavar="GLOB", help="Skip files of such a name (repeatable)."),
    click.option(
        "-r", "-N", "--recursive", "--new-file", "--no-dereference", is_flag=True, expose_value=False,
        help="Accepted: diff always compares so.",
    ),
    unsupported("-e", "--ed", "-n", "--rcs", use="write -u"),
    each_unsupported("--normal", "-D --ifdef", use="write -u"),
    each_unsupported("-F --show-function-line", "-p --show-c-function", use="write -U N for N lines of context"),
    each_unsupported("-W --width", "--left-column", "--suppress-common-lines", use="write -u"),
    each_unsupported("-I --ignore-matching-lines", "-E --ignore-tab-expansion", use="-b and -w ignore white space"),
    each_unsupported("-Z --ignore-trailing-space", use="-b ignores white space at the end of lines"),
    each_unsupported("-X --exclude-from", use="name each: --exclude GLOB"),
    each_unsupported("-S --starting-file", "--from-file", "--to-file", use="name a PATH in both images"),
    each_unsupported("--ignore-file-name-case", "--no-ignore-file-name-case", use="names are compared byte by byte"),
    each_unsupported("--unidirectional-new-file", use="every file that only one image has is listed"),
    each_unsupported("--label", "--palette", use="pipe the output into sed"),
    each_unsupported("-t --expand-tabs", "-T --initial-tab", "--tabsize", use="pipe the output into expand(1)"),
    each_unsupported("--suppress-blank-empty", use="pipe the output into `sed 's/^ $//'`"),
    each_unsupported("-l --paginate", use="pipe the output into pr(1)"),
    each_unsupported("-d --minimal", "--horizon-lines", "-H --speed-large-files", use="leave it out"),
    each_unsupported("--GTYPE-group-format", "--line-format", "--LTYPE-line-format", use="write --json"),
    unsupported("-s", "--report-identical-files", use="only differences are printed"),
    unsupported("-y", "--side-by-side", "-c", "-C", "--context", use="write -u, or -U N for N lines of context"),
)  # fmt: skip
"""Options about lines of text files, those of GNU diff."""


@click.command(cls=_Diff)
@image_options
@add_options(_TEXT_OPTIONS)
@click.option(
    "--ignore",
    "ignored",
    type=Aspects(),
    default=frozenset(),
    metavar="WHAT,...",
    help=f"Differences to ignore, comma-separated: {', '.join(ASPECTS)}.",
)
@click.option(
    "--stat", "statistics", is_flag=True, help="Print only file and byte counts for each top-level directory."
)
@click.option("-q", "--brief", is_flag=True, help="Print only which files differ, like GNU diff -rq.")
@null_option
@colour_option
@json_option
@click.argument("first", metavar="IMAGE1[:/PATH]")
@click.argument("second", metavar="IMAGE2[:/PATH]")
@click.argument("path", required=False)
def diff(
    first: str,
    second: str,
    path: str | None,
    options: Options,
    ignored: frozenset[Aspect],
    statistics: bool,
    brief: bool,
    unified: bool,
    context: int | None,
    ignore_case: bool,
    all_space: bool,
    space_change: bool,
    ignore_blank: bool,
    ignore_cr: bool,
    text: bool,
    exclude: tuple[str, ...],
    null: bool,
    colour: ColourWhen,
    as_json: bool,
) -> int:
    """Show how IMAGE2 differs from IMAGE1, in total or at and below PATH; for a text file, show the lines.

    IMAGE~N is the image without its last N layers. The exit status is 0 without differences, 1 with differences. Reads
    file data only if sizes agree and the layers cannot decide, or options are about lines. With --json, print one
    object for each path on a line.

    \b
    Try:  ocifs diff ./debian:latest~1 ./debian:latest
          ocifs diff --stat --ignore mtime ./debian:base ./debian:latest
          ocifs diff ./debian:base ./debian:latest /etc/passwd
    """
    from ocifs.report import difference_text as changes
    from ocifs.report.changed_texts import Texts
    from ocifs.report.textdiff import Comparison

    output = Output(null, colour)
    space: Literal["exact", "amount", "all"] = "all" if all_space else "amount" if space_change else "exact"
    how = Comparison(3 if context is None else context, space, ignore_case, ignore_blank, ignore_cr)
    first, second, paths = _named(first, second, path)
    start = os.fsencode(paths[0])
    with failures_not_as_no(), ExitStack() as stack:
        before, after = (stack.enter_context(open_image(image, options)).rootfs for image in (first, second))
        starts = _starts(before, after, paths)
        # The differences are all known at this point; printing only looks up their details.
        with working("comparing") as progress:
            found = differences(before, after, starts, start, ignored, progress)
            texts = Texts(before, after, how, as_text=text)
            found = (each for each in found if not _is_excluded(each.path, exclude))
            found = filter(None, map(texts.without_ignored, found)) if how.ignores else found
            one = next(found, None)
        if one is None:
            return YES
        found = chain([one], found)
        if statistics:
            totals = changes.add_up(found)
            if as_json:
                output.lines(changes.totals_json(*row) for row in sorted(totals.items()))
            else:
                output.lines(changes.totals_lines(totals, output.show))
        elif as_json:
            output.lines(map(changes.to_json, found))
        elif brief:
            before_side, after_side = (
                changes.Operand(os.fsencode(image), os.fsencode(named))
                for image, named in zip((first, second), paths, strict=True)
            )
            output.lines(changes.brief_lines(found, before_side, after_side, output.show))
        else:
            in_full = unified or context is not None
            for each in found:
                output.lines([changes.difference_line(each, output.show, output.paint)])
                if in_full or each.path == start:
                    output.lines(_painted(line, output) for line in texts.diff(each, output.show, output.text))
        return NO


def _named(first: str, second: str, path: str | None) -> tuple[str, str, tuple[str, str]]:
    """Return the images, and the path in each. Raises UsageError."""
    from ocifs.sources.reference import split_path

    (first, one), (second, other) = split_path(first), split_path(second)
    if (one, other) == (None, None):
        return first, second, (path or "/",) * 2
    if one is None or other is None or path is not None:
        raise click.UsageError("name a path in both images, as IMAGE1:/PATH IMAGE2:/PATH, or one PATH after them")
    return first, second, (one, other)


def _starts(before: Rootfs, after: Rootfs, paths: tuple[str, str]) -> Starts:
    """Return the nid of a path in each tree, following symlinks.

    Raises:
        NotFoundError: Neither tree has the path, or one of two different paths does not exist.
    """
    found: list[int | None] = []
    for rootfs, path in zip((before, after), paths, strict=True):
        try:
            found.append(rootfs.lookup(path))
        except NotFoundError:
            if found == [None] or paths[0] != paths[1]:
                raise
            found.append(None)
    return found[0], found[1]


def _is_excluded(path: bytes, globs: tuple[str, ...]) -> bool:
    """Whether the name of a file, or of a directory above it, matches one of the globs."""
    return bool(globs) and any(
        fnmatch.fnmatchcase(name, glob) for name in os.fsdecode(path).split("/") for glob in globs
    )


_COLOURS = ((b"--- ", b"1"), (b"+++ ", b"1"), (b"@@ ", b"36"), (b"-", b"31"), (b"+", b"32"))
"""What a line begins with, and its colour; the first one counts."""


def _painted(line: bytes, output: Output) -> bytes:
    code = next((code for begin, code in _COLOURS if line.startswith(begin)), b"") if output.is_coloured else b""
    return b"\x1b[%bm%b\x1b[0m" % (code, line) if code else line
