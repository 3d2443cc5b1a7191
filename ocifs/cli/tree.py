"""`ocifs tree`: draw directories of an image, without a mount."""

import itertools
from collections.abc import Iterator

import click
from msgspec.structs import replace

from ocifs.cli.command import command
from ocifs.cli.options import json_option
from ocifs.cli.output import ColourWhen, Output, colour_option, human_option
from ocifs.cli.unsupported import each_unsupported, unsupported
from ocifs.cli.view import View, view_options
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import unmarked
from ocifs.report.ls import mark
from ocifs.report.tree import Branch, Chosen, Columns, branches, directory_totals, parse_pattern, tree_lines
from ocifs.report.tree import to_json as branch_json


@command()
@view_options
@click.option("-L", "levels", type=click.IntRange(min=1), metavar="N", help="Descend at most N levels.")
@click.option("-d", "directories_only", is_flag=True, help="List directories only.")
@click.option("-a", "show_all", is_flag=True, help="Include names that begin with a dot.")
@click.option("-f", "full", is_flag=True, help="Print paths instead of names.")
@click.option("-i", "flat", is_flag=True, help="Print no lines in front of the names.")
@click.option("-P", "wanted", metavar="PATTERN", help="List only files that match, such as '*.py|*.so'.")
@click.option("-I", "ignored", metavar="PATTERN", help="Leave out files and directories that match.")
@click.option("--ignore-case", is_flag=True, help="Ignore case in -P and -I.")
@click.option("-s", "sizes", is_flag=True, help="Print sizes in bytes before the names.")
@click.option("-p", "modes", is_flag=True, help="Print type and permissions before the names.")
@click.option("--du", "usage", is_flag=True, help="Print sizes; those of directories with everything below them.")
@click.option("-F", "classify", is_flag=True, help="Append one of */=@| to names, by type.")
@click.option("--dirsfirst", "directories_first", is_flag=True, help="List directories before files.")
@click.option("--noreport", is_flag=True, help="Print no count at the end.")
@click.option("-x", "local", is_flag=True, expose_value=False, hidden=True)
@unsupported("-l", use="symlinks are not followed: name the directory that one leads to")
@unsupported("-C", use="--color always")
@unsupported("-n", use="--color never")
@each_unsupported("-D", "-u", "-g", "--timefmt", use="`ocifs ls -lR`")
@each_unsupported("-t", "-r", "-c", "-U", "-v", "--sort", use="`ocifs ls -R` sorts by -t, -S and -r")
@each_unsupported("-J", "-X", use="--json")
@each_unsupported("-H", "-T", use="`ocifs report` writes a page")
@unsupported("-o", use="redirect the output")
@each_unsupported("--prune", "--matchdirs", use="`ocifs find IMAGE PATH -name PATTERN`")
@unsupported("--filelimit", use="-L N")
@each_unsupported("--gitignore", "--gitfile", "--info", "--infofile", use="-I leaves out files that match a pattern")
@each_unsupported("--inodes", "--device", use="`ocifs ls -lRi`")
@each_unsupported("-q", "-N", "-Q", use="only a terminal gets escaped names")
@each_unsupported("-R", "--fromfile", "--fromtabfile", "--filesfrom", "--hintro", "--houtro", use="name the PATHs")
@each_unsupported("-A", "-S", "--charset", use="-i prints no lines")
@each_unsupported("--nolinks", "--fflinks", "--metafirst", use="`ocifs report` writes a page")
@each_unsupported("--si", use="-h")
@each_unsupported("--filesfirst", use="--dirsfirst")
@human_option
@colour_option
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def tree(
    view: View,
    paths: tuple[str, ...],
    levels: int | None,
    directories_only: bool,
    show_all: bool,
    full: bool,
    flat: bool,
    wanted: str | None,
    ignored: str | None,
    ignore_case: bool,
    sizes: bool,
    modes: bool,
    usage: bool,
    classify: bool,
    directories_first: bool,
    noreport: bool,
    human: bool,
    colour: ColourWhen,
    as_json: bool,
) -> None:
    """Draw each PATH in IMAGE [default: /] and everything below it.

    With --json, print one object for each line, with its path below PATH and its depth.

    \b
    Try:  ocifs tree -L 2 ./debian:latest:/etc
          ocifs tree -P '*.conf' ./debian:latest:/etc
          ocifs tree --only-layer 2 ./debian:latest
    """
    output = Output(colour=colour)
    chosen = Chosen(
        levels=levels,
        directories_only=directories_only,
        dotted=show_all,
        directories_first=directories_first,
        wanted=None if wanted is None else parse_pattern(wanted, ignore_case=ignore_case),
        ignored=None if ignored is None else parse_pattern(ignored, ignore_case=ignore_case),
    )
    with view.files(paths, "/") as (opened, starts):
        rootfs = opened.rootfs
        drawn = _drawn(rootfs, starts, chosen)
        if as_json:
            output.lines(map(branch_json, drawn))
            return
        columns = Columns(
            sizes=sizes,
            human=human,
            modes=modes,
            count_files=not directories_only,
            full=full,
            indent=not flat,
            report=not noreport,
            totals=directory_totals(_drawn(rootfs, starts, replace(chosen, levels=None))) if usage else None,
        )
        marked = (lambda entry: mark(rootfs, b"", entry, "types", long=True)) if classify else unmarked
        output.lines(tree_lines(drawn, output.show, output.paint, columns, marked))


def _drawn(rootfs: Rootfs, starts: list[bytes], chosen: Chosen) -> Iterator[Branch]:
    return itertools.chain.from_iterable(branches(rootfs, start, chosen) for start in starts)
