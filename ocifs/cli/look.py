"""`ocifs ls`, `tree`, `stat` and `blame`: names and attributes of an image, without a mount."""

import itertools

import click
import msgspec

from ocifs.cli.command import command
from ocifs.cli.options import View, json_option, view_options
from ocifs.cli.output import ColourWhen, Output, colour_option, human_option, null_option
from ocifs.image.glob import expand
from ocifs.image.opening import Image
from ocifs.report.listing import Listed, describe, list_directory, long_lines, to_json


@command()
@view_options
@click.option("-l", "long", is_flag=True, help="Print mode, links, owner, size, time and link target.")
@click.option("-R", "recursive", is_flag=True, help="List directories recursively, as paths.")
@click.option("-a", "show_all", is_flag=True, help="Include names that begin with a dot.")
@click.option("-d", "itself", is_flag=True, help="List a directory itself, not its content.")
@human_option
@null_option
@colour_option
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def ls(
    view: View,
    paths: tuple[str, ...],
    long: bool,
    recursive: bool,
    show_all: bool,
    itself: bool,
    human: bool,
    null: bool,
    colour: ColourWhen,
    as_json: bool,
) -> None:
    """List each PATH in IMAGE [default: /]. A symlink in PATH is followed within the image.

    Owners are numbers, as stored. With --json, print one object for each line, including dotted names.

    \b
    Try:  ocifs ls -l ./debian:latest /etc
          ocifs ls -lR --only-layer 2 ./debian:latest
    """
    output = Output(null, colour)
    named = view.paths(paths, "/")
    with view.open() as opened:
        entries = itertools.chain.from_iterable(
            list_directory(opened.rootfs, path, recursive=recursive, itself=itself)
            for path in expand(opened.rootfs, named)
        )
        shown = (entry for entry in entries if show_all or as_json or not entry.is_hidden)
        if as_json:
            output.lines(map(to_json, shown))
        elif long:
            output.lines(long_lines(shown, output.show, output.paint, human=human))
        else:
            show, paint = output.show, output.paint
            output.lines(paint(show(entry.name), entry) for entry in shown)


@command()
@view_options
@click.option("-L", "levels", type=click.IntRange(min=1), metavar="N", help="Descend at most N levels.")
@click.option("-d", "directories_only", is_flag=True, help="List directories only.")
@click.option("-a", "show_all", is_flag=True, help="Include names that begin with a dot.")
@click.option("-s", "sizes", is_flag=True, help="Print sizes in bytes before the names.")
@human_option
@colour_option
@json_option
@click.argument("path", required=False)
def tree(
    view: View,
    path: str | None,
    levels: int | None,
    directories_only: bool,
    show_all: bool,
    sizes: bool,
    human: bool,
    colour: ColourWhen,
    as_json: bool,
) -> None:
    """Draw PATH in IMAGE and everything below it.

    With --json, print one object for each line, with its path below PATH and its depth.

    \b
    Try:  ocifs tree -L 2 ./debian:latest /etc
          ocifs tree --only-layer 2 ./debian:latest
    """
    from ocifs.report.tree import Chosen, Columns, branches, tree_lines
    from ocifs.report.tree import to_json as branch_json

    output = Output(colour=colour)
    chosen = Chosen(levels=levels, directories_only=directories_only, dotted=show_all)
    start, *others = view.paths((path,) if path else (), "/")
    if others:
        raise click.UsageError("tree draws one directory")
    with view.open() as opened:
        drawn = branches(opened.rootfs, start, chosen)
        if as_json:
            output.lines(map(branch_json, drawn))
        else:
            columns = Columns(sizes=sizes, human=human, count_files=not directories_only)
            output.lines(tree_lines(drawn, output.show, output.paint, columns))


@command()
@view_options
@click.option("--follow", "-L", is_flag=True, help="Follow a symlink.")
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def stat(view: View, paths: tuple[str, ...], follow: bool, as_json: bool) -> None:
    """Show the attributes of PATH in IMAGE, its extended attributes, and the layers that hold its bytes."""
    output = Output()
    named = view.paths(paths)
    with view.open() as opened:
        for path in expand(opened.rootfs, named):
            nid = opened.rootfs.lookup(path, follow=follow)
            listed = Listed.of(opened.rootfs, path, nid, detailed=True)
            output.lines([to_json(listed)] if as_json else describe(listed, _digests(opened), output.show))


@command()
@view_options
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def blame(view: View, paths: tuple[str, ...], as_json: bool) -> None:
    """Show which layers of IMAGE added, changed or removed PATH, and which versions are hidden.

    With --json, print one object for each change on a line.

    \b
    Try:  ocifs blame ./debian:latest /etc/issue
    """
    from ocifs.report.blame import history_lines, history_members, path_history

    if view.options.changes_only:
        raise click.UsageError("blame covers all layers: --only-layer cannot be used")
    output = Output()
    named = view.paths(paths)
    with view.open() as opened:
        for path in (several := expand(opened.rootfs, named)):
            events = path_history(opened, path)
            if as_json:
                output.lines(msgspec.json.encode(history_members(path, event)) for event in events)
            else:
                if len(several) > 1:
                    output.lines([output.show(path) + b":"])
                output.lines(history_lines(events, _digests(opened), output.show))


def _digests(opened: Image) -> list[str]:
    return [layer.descriptor.digest for layer in opened.resolved.layers]
