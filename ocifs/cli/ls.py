"""`ocifs ls`: list directories of an image, without a mount."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import click
import msgspec

from ocifs.cli.command import command
from ocifs.cli.options import json_option
from ocifs.cli.output import ColourWhen, Output, colour_option, human_option, null_option, terminal_width
from ocifs.cli.unsupported import all_unsupported
from ocifs.cli.view import View, view_options
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed, Paint, Show, long_lines, to_json
from ocifs.report.ls import Arrangement, IndicatorStyle, Listing, Sort, columns, listings, mark, text_width

_LACKED = (
    ("-L --dereference", "-H follows each PATH, and `ocifs stat -L` a symlink"),
    ("--dereference-command-line-symlink-to-dir", "without -l, -F and -d a PATH is followed to a directory"),
    *((names, "an image has modification times only: -t") for names in ("-c", "-u", "--time")),
    *((names, "-C prints columns, and -1 lines") for names in ("-x", "-m", "--format", "-T --tabsize")),
    *((names, "-l") for names in ("-g", "-o", "-G --no-group", "--author")),
    *(
        (names, "only a terminal gets escaped names")
        for names in (
            *("-Q --quote-name", "-b --escape", "-N --literal", "-q --hide-control-chars", "--show-control-chars"),
            "--quoting-style",
        )
    ),
    *((names, "-l prints bytes, and -lh units of 1024 bytes") for names in ("-k --kibibytes", "--block-size", "--si")),
    *((names, "-F marks types, and -p directories") for names in ("--file-type", "--indicator-style")),
    *((names, "`ocifs find IMAGE PATH ! -name PATTERN`") for names in ("-I --ignore", "--hide", "-B --ignore-backups")),
    *((names, "`ocifs stat -c '%y %n'`") for names in ("--full-time", "--time-style")),
    ("--sort", "-S sorts by size, -t by time, -X by extension, -U not at all"),
    ("-f", "-aU"),
    ("-w --width", "set COLUMNS"),
    ("-v", "pipe `ocifs ls -1` into `sort -V`"),
    ("-s --size", "`ocifs du -a`"),
    ("-Z --context", "`ocifs stat` prints extended attributes"),
    ("-D --dired", "--json"),
    ("--zero", "-z"),
    ("--hyperlink", "an image has no URLs of files: leave it out"),
)
"""Flags of GNU ls, and what to use."""


@command()
@view_options
@click.option(
    "-l", "-n", "--numeric-uid-gid", "long", is_flag=True, help="Print mode, links, owner, size, time and link target."
)
@click.option("-1", "single", is_flag=True, help="Print one name on a line.")
@click.option("-C", "columned", is_flag=True, help="Print names in columns; the default on a terminal.")
@click.option("-R", "--recursive", "recursive", is_flag=True, help="List directories recursively.")
@click.option("-a", "--all", "show_all", is_flag=True, help="Include names that begin with a dot.")
@click.option("-A", "--almost-all", "almost", is_flag=True, help="Like -a, but without . and ...")
@click.option("-d", "--directory", "itself", is_flag=True, help="List a directory itself, not its content.")
@click.option("-t", "sort", flag_value="time", help="Sort by time, the newest first.")
@click.option("-S", "sort", flag_value="size", help="Sort by size, the largest first.")
@click.option("-X", "sort", flag_value="extension", help="Sort by the part after the last dot.")
@click.option("-U", "sort", flag_value="none", hidden=True)
@click.option("-r", "--reverse", is_flag=True, help="Reverse the order.")
@click.option("--group-directories-first", "directories_first", is_flag=True, help="List directories before files.")
@click.option("-F", "--classify", "classify", is_flag=True, help="Append one of */=@| to names, by type.")
@click.option("-p", "slashes", is_flag=True, help="Append / to directories.")
@click.option("-i", "--inode", "inodes", is_flag=True, help="Print inode numbers.")
@click.option(
    "-H", "--dereference-command-line", "dereference", is_flag=True, help="Follow each symlink named as PATH."
)
@all_unsupported(_LACKED)
@human_option
@null_option
@colour_option
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def ls(
    view: View,
    paths: tuple[str, ...],
    long: bool,
    single: bool,
    columned: bool,
    recursive: bool,
    show_all: bool,
    almost: bool,
    itself: bool,
    sort: Sort | None,
    reverse: bool,
    directories_first: bool,
    classify: bool,
    slashes: bool,
    inodes: bool,
    dereference: bool,
    human: bool,
    null: bool,
    colour: ColourWhen,
    as_json: bool,
) -> None:
    """List each PATH in IMAGE [default: /], like GNU ls.

    Names are in byte order. Owners are numbers, as stored. With --json, print one object for each line, including
    dotted names.

    \b
    Try:  ocifs ls -l ./debian:latest:/etc
          ocifs ls -lR --only-layer 2 ./debian:latest
          ocifs ls -lSh ./debian:latest '/usr/lib/*/*.so*'
    """
    how = Arrangement(
        hidden="almost" if almost or as_json else "all" if show_all else "none",
        itself=itself,
        recursive=recursive,
        sort=sort or "name",
        reverse=reverse,
        directories_first=directories_first,
        follow="named" if dereference else "none" if (long or classify or itself) and not as_json else "directories",
    )
    output = Output(null, colour)
    printed = _Printed(
        output,
        long=long,
        columns=columned or not (single or null or not sys.stdout.isatty()),
        marks="types" if classify else "directories" if slashes else "none",
        inodes=inodes,
        human=human,
    )
    with view.files(paths, "/") as (opened, expanded):
        found = listings(opened.rootfs, expanded, how)
        if as_json:
            output.lines(_json_lines(found, several=len(expanded) > 1))
        else:
            output.lines(printed.lines(opened.rootfs, found))


class _Printed(NamedTuple):
    """How entries are printed."""

    output: Output
    long: bool
    columns: bool
    marks: IndicatorStyle
    inodes: bool
    human: bool

    def lines(self, rootfs: Rootfs, found: Iterator[Listing]) -> Iterator[bytes]:
        """Yield the lines of all listings."""
        show, paint = self.output.show, self.output.paint
        for number, listing in enumerate(found):
            if number:
                yield b""
            if listing.heading is not None:
                yield show(listing.heading) + b":"
            marked = partial(self._mark, rootfs, listing.directory)
            if self.long:
                yield from long_lines(listing.entries, show, paint, marked, human=self.human, inodes=self.inodes)
            else:
                yield from self._names(listing, show, paint, marked)

    def _mark(self, rootfs: Rootfs, directory: bytes, entry: Listed) -> bytes:
        return mark(rootfs, directory, entry, self.marks, long=self.long)

    def _names(self, listing: Listing, show: Show, paint: Paint, marked: Callable[[Listed], bytes]) -> Iterator[bytes]:
        digits = max((len(str(entry.inode.nid)) for entry in listing.entries), default=0) if self.inodes else 0
        cells = []
        for entry in listing.entries:
            begin = b"%*d " % (digits, entry.inode.nid) if self.inodes else b""
            after = marked(entry)
            name = show(entry.name)
            cell = begin + paint(name, entry) + after
            if not self.columns:
                yield cell
                continue
            cells.append((cell, len(begin) + text_width(name) + len(after)))
        yield from columns(cells, terminal_width() or 80)


def _json_lines(found: Iterator[Listing], *, several: bool) -> Iterator[bytes]:
    """Yield an object for each entry, with its path below the operand, or in full if there are several operands."""
    for listing in found:
        prefix = listing.directory if several else listing.below
        for entry in listing.entries:
            yield to_json(msgspec.structs.replace(entry, path=prefix + entry.path) if prefix else entry)
