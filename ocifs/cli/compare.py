"""`ocifs diff`: compare two images, or one image with and without its last layers."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack

import click

from ocifs.cli.command import command
from ocifs.cli.exit_status import NO, YES, failures_not_as_no
from ocifs.cli.options import image_options, json_option, open_image
from ocifs.cli.output import ColourWhen, Output, colour_option, null_option
from ocifs.cli.progress import working
from ocifs.errors import NotFoundError
from ocifs.image.rootfs import Rootfs
from ocifs.options import Options
from ocifs.report.difference import ASPECTS, Aspect, Difference, differences

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


@command()
@image_options
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
@click.option("-q", "--brief", is_flag=True, help="Print nothing; only set the exit status.")
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
    null: bool,
    colour: ColourWhen,
    as_json: bool,
) -> int:
    """Show how IMAGE2 differs from IMAGE1, in total or at and below PATH; for a text file, show the lines.

    IMAGE~N is the image without its last N layers. The exit status is 0 without differences, 1 with differences. Reads
    file data only if sizes agree and the layers cannot decide. With --json, print one object for each path on a line.

    \b
    Try:  ocifs diff ./debian:latest~1 ./debian:latest
          ocifs diff --stat --ignore mtime ./debian:base ./debian:latest
          ocifs diff ./debian:base ./debian:latest /etc/passwd
    """
    from ocifs.report import difference_text as changes

    output = Output(null, colour)
    first, second, paths = _named(first, second, path)
    shown = os.fsencode(paths[0])
    with failures_not_as_no(), ExitStack() as stack:
        before, after = (stack.enter_context(open_image(image, options)).rootfs for image in (first, second))
        starts = _starts(before, after, paths)
        # The differences are all known at this point; printing only looks up their details.
        with working("comparing") as progress:
            found = differences(before, after, starts, shown, ignored, progress)
            one = next(found, None)
        if one is None or brief:
            return YES if one is None else NO
        found = _again(one, found)
        if statistics:
            totals = changes.add_up(found)
            if as_json:
                output.lines(changes.totals_json(*row) for row in sorted(totals.items()))
            else:
                output.lines(changes.totals_lines(totals, output.show))
        elif as_json:
            output.lines(map(changes.to_json, found))
        else:
            output.lines(changes.difference_line(each, output.show, output.paint) for each in found)
            output.lines(_text_lines(before, after, one, output) if one.path == shown else ())
        return NO


def _again(first: Difference, others: Iterator[Difference]) -> Iterator[Difference]:
    yield first
    yield from others


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


def _text_lines(before: Rootfs, after: Rootfs, difference: Difference, output: Output) -> Iterator[bytes]:
    """Yield the lines in which a regular file differs."""
    from ocifs.report.textdiff import MAX_SIZE, is_text, unified_diff

    entries = (difference.before, difference.after)
    if not all(entry is None or stat.S_ISREG(entry.inode.mode) for entry in entries):
        return
    if all(entries) and "content" not in difference.aspects:
        return
    for entry in entries:
        if entry is not None and entry.inode.size > MAX_SIZE:
            yield b"Files of more than 1 MiB are not compared line by line"
            return
    texts = [
        b"" if entry is None else rootfs.read(entry.inode.nid, entry.inode.size, 0)
        for rootfs, entry in zip((before, after), entries, strict=True)
    ]
    if not all(map(is_text, texts)):
        return
    path = difference.path.lstrip(b"/")
    names = tuple(
        b"/dev/null" if entry is None else output.show(side + path)
        for side, entry in zip((b"a/", b"b/"), entries, strict=True)
    )
    yield from map(output.text, unified_diff(texts[0], texts[1], (names[0], names[1])))
