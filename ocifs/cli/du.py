"""`ocifs du`: the disk usage of directories of an image, without a mount."""

from collections.abc import Callable, Iterator

import click

from ocifs.cli.command import command
from ocifs.cli.options import json_option
from ocifs.cli.output import Output, human_option, null_option
from ocifs.cli.unsupported import each_unsupported, unsupported
from ocifs.cli.view import View, view_options
from ocifs.image.rootfs import Rootfs
from ocifs.report.text import short_size
from ocifs.report.usage import Usage, disk_usage, total, usage_lines
from ocifs.report.usage import to_json as usage_json


@command()
@view_options
@click.option("-s", "--summarize", "summary", is_flag=True, help="Print only a total for each PATH, like -d 0.")
@click.option("-d", "--max-depth", "depth", type=click.IntRange(min=0), metavar="N", help="Print at most N levels.")
@click.option("-a", "--all", "show_all", is_flag=True, help="Print files as well as directories.")
@click.option("-c", "--total", "grand", is_flag=True, help="Print a total of all PATHs at the end.")
@click.option("--apparent-size", "apparent", is_flag=True, help="Add up file sizes instead of disk usage.")
@click.option("-b", "--bytes", "unit", flag_value="b", help="Same as --apparent-size, in bytes.")
@click.option("-k", "unit", flag_value="k", help="Print KiB; the default.")
@click.option("-m", "unit", flag_value="m", help="Print MiB.")
@click.option("--layers", "by_layer", is_flag=True, help="Print a line for each layer with a share.")
@click.option("-x", "--one-file-system", "local", is_flag=True, expose_value=False, hidden=True)
@click.option("-0", "zero", is_flag=True, hidden=True)
@click.option("-P", "--no-dereference", is_flag=True, expose_value=False, hidden=True)
@each_unsupported("-B --block-size", "--si", use="-b, -k, -m or -h")
@unsupported("--inodes", use="`ocifs find IMAGE PATH | wc -l`")
@unsupported("--files0-from", use="name the PATHs")
@each_unsupported("-L --dereference", "-D --dereference-args", "-H", use="name the directory that the symlink leads to")
@unsupported("-S", "--separate-dirs", use="`ocifs find IMAGE PATH -maxdepth 1 -ls`")
@unsupported("-l", "--count-links", use="a hard-linked file counts once")
@unsupported("-t", "--threshold", use="pipe -b into awk: '$1 >= 1000000'")
@each_unsupported("--exclude", "-X --exclude-from", use="`ocifs find IMAGE PATH ! -name PATTERN -ls`")
@each_unsupported("--time", "--time-style", use="`ocifs ls -l`")
@human_option
@null_option
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def du(
    view: View,
    paths: tuple[str, ...],
    summary: bool,
    depth: int | None,
    show_all: bool,
    grand: bool,
    apparent: bool,
    unit: str | None,
    by_layer: bool,
    zero: bool,
    human: bool,
    null: bool,
    as_json: bool,
) -> None:
    """Show the disk usage of each directory at and below PATH of IMAGE [default: /], in KiB.

    A hard-linked file counts once. Columns: size, with --layers the layer, path.

    \b
    Try:  ocifs du -h -d 1 ./debian:latest:/usr
          ocifs du -shc --layers ./debian:latest '/usr/*'
    """
    if summary and (depth or show_all):
        raise click.UsageError(f"-s and {'-d' if depth else '-a'} exclude each other")
    apparent = apparent or unit == "b"
    most = 0 if summary else depth
    output = Output(null or zero)
    with view.files(paths, "/") as (opened, expanded):
        usages = _usages(opened.rootfs, expanded, apparent=apparent, files=show_all, grand=grand)
        shown = (usage for usage in usages if most is None or usage.depth <= most)
        if as_json:
            output.lines(map(usage_json, shown))
        else:
            size = short_size if human else _in_units({"b": 1, "m": 1 << 20}.get(unit or "k", 1 << 10))
            output.lines(line for usage in shown for line in usage_lines(usage, output.show, size, by_layer=by_layer))


def _usages(rootfs: Rootfs, paths: list[bytes], *, apparent: bool, files: bool, grand: bool) -> Iterator[Usage]:
    """Yield the usage of each path; nothing counts twice. With `grand`, the last one is the total."""
    seen: set[int] = set()
    tops = []
    for path in paths:
        for usage in disk_usage(rootfs, path, apparent=apparent, files=files, seen=seen):
            if not usage.depth:
                tops.append(usage)
            yield usage
    if grand:
        yield total(tops)


def _in_units(unit: int) -> Callable[[int], str]:
    return lambda size: str(-(-size // unit))
