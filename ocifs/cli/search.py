"""`ocifs find` and `du`: walk all files of an image, without a mount."""

import click

from ocifs.cli.command import command
from ocifs.cli.options import View, json_option, view_options
from ocifs.cli.output import Output, human_option, null_option, write_bytes
from ocifs.image.glob import expand
from ocifs.report.listing import Listed, to_json

_EXPRESSION = """\b
Tests, as those of find(1); N is N, +N for more, -N for less
  -name GLOB  -iname GLOB  -path GLOB  -ipath GLOB  -regex RE  -iregex RE
  -type [bcdflpsw],…   w: a whiteout     -size N[cwbkMG]   -empty
  -mtime N  -mmin N  -newer PATH  -newermt TIME
  -perm MODE  -perm -MODE  -perm /MODE   -user NAME  -group NAME
  -uid N  -gid N  -links N  -inum N      -xattr GLOB  -layer N
  -maxdepth N  -mindepth N  -prune  -true  -false
Operators: ( )  ! -not  -a -and  -o -or
Actions: -print (if no other is named)  -print0  -ls
"""


@command(
    epilog=_EXPRESSION,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@view_options
@json_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[PATH...] [EXPRESSION]")
def find(view: View, words: tuple[str, ...], as_json: bool) -> None:
    """Find files at and below each PATH of IMAGE [default: /] for which EXPRESSION is true.

    Options precede IMAGE. Symlinks are not followed. Regular expressions are Python's, and must match the whole path.
    User names are those of the image's /etc/passwd.

    \b
    Try:  ocifs find ./debian:latest /usr -type f -size +1M
          ocifs find ./debian:latest -perm /u+s,g+s -ls
          ocifs find --layer 1 ./debian:latest -layer 1 -name '*.so*'
    """
    from ocifs.report import find as finding

    output = Output()
    show = output.show
    start = next((place for place, word in enumerate(words) if _begins_expression(word)), len(words))
    paths = view.paths(words[:start], "/")
    with view.open() as opened:
        rootfs = opened.rootfs
        try:
            expression = finding.parse(words[start:], rootfs)
        except finding.ExpressionError as error:
            raise click.UsageError(str(error)) from None
        for visit in finding.find(rootfs, expand(rootfs, paths), expression):
            for action in visit.actions:
                if as_json:
                    write_bytes(to_json(Listed.of(rootfs, visit.path, visit.nid)) + b"\n")
                elif action == "print":
                    write_bytes(show(visit.printed) + b"\n")
                elif action == "print0":
                    write_bytes(visit.printed + b"\0")
                else:
                    write_bytes(finding.ls_line(Listed.of(rootfs, visit.path, visit.nid), show) + b"\n")
    output.lines([])


def _begins_expression(word: str) -> bool:
    return word in {"(", ")", "!"} or (word.startswith("-") and word != "-")


@command()
@view_options
@click.option("-s", "--summarize", "summary", is_flag=True, help="Print only a total for each PATH, like -d 0.")
@click.option("-d", "--max-depth", "depth", type=click.IntRange(min=0), metavar="N", help="Print at most N levels.")
@click.option("-a", "--all", "show_all", is_flag=True, help="Print files as well as directories.")
@click.option("-b", "--bytes", "apparent", is_flag=True, help="Print file sizes in bytes instead of disk usage.")
@click.option("--layers", "by_layer", is_flag=True, help="Print a line for each layer with a share.")
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
    apparent: bool,
    by_layer: bool,
    human: bool,
    null: bool,
    as_json: bool,
) -> None:
    """Show the disk usage of each directory at and below PATH of IMAGE [default: /], in KiB.

    A hard-linked file counts once. Columns: size, with --layers the layer, path.

    \b
    Try:  ocifs du -h -d 1 ./debian:latest /usr
          ocifs du -sh --layers ./debian:latest
    """
    from ocifs.report.text import short_size
    from ocifs.report.usage import disk_usage, usage_lines
    from ocifs.report.usage import to_json as usage_json

    if summary and depth:
        raise click.UsageError("-s and -d exclude each other")
    most = 0 if summary else depth
    output = Output(null)
    named = view.paths(paths, "/")
    with view.open() as opened:
        shown = (
            usage
            for path in expand(opened.rootfs, named)
            for usage in disk_usage(opened.rootfs, path, apparent=apparent, files=show_all)
            if most is None or usage.depth <= most
        )
        if as_json:
            output.lines(map(usage_json, shown))
        else:
            size = short_size if human else (lambda size: str(-(-size // (1 if apparent else 1024))))
            output.lines(line for usage in shown for line in usage_lines(usage, output.show, size, by_layer=by_layer))
