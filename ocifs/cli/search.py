"""`ocifs find`: search the files of an image by their attributes, without a mount."""

import click

from ocifs.cli.command import Command, command
from ocifs.cli.options import json_option
from ocifs.cli.output import Output, write_bytes
from ocifs.cli.unsupported import unsupported
from ocifs.cli.view import View, view_options
from ocifs.image.glob import expand
from ocifs.report.listing import Listed, to_json

_EXPRESSION = """\b
Tests, as those of find(1); N is N, +N for more, -N for less
  -name GLOB  -iname GLOB  -path GLOB  -ipath GLOB  -regex RE  -iregex RE
  -lname GLOB  -ilname GLOB  -regextype python|posix-extended|posix-basic
  -type [bcdflpsw],…   w: a whiteout     -size N[cwbkMG]   -empty
  -mtime N  -mmin N  -newer PATH  -newermt TIME  -samefile PATH
  -perm MODE  -perm -MODE  -perm /MODE   -user NAME  -group NAME
  -uid N  -gid N  -nouser  -nogroup  -links N  -inum N  -xattr GLOB  -layer N
  -maxdepth N  -mindepth N  -prune  -true  -false
Operators: ( )  ! -not  -a -and  -o -or  ,
Actions: -print (if no other is named)  -print0  -printf FORMAT  -ls  -quit
  FORMAT: %p %P %H %f %h %d  %s %b %k %n %i %l  %m %M %u %U %g %G  %y %Y
          %t %T@ %T+ %TY…  %%, with widths as %-10s; \\n \\t \\0 \\NNN \\\\
"""


class _Find(Command):
    """A command whose unknown options are tests, except those in front."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args:
            self.refuse_unsupported(args[0])
        return super().parse_args(ctx, args)


@command(
    cls=_Find,
    epilog=_EXPRESSION,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@view_options
@unsupported("-L", "-H", use="symlinks are not followed: mount the image and use find(1)")
@click.option("-P", is_flag=True, expose_value=False, hidden=True)
@json_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[PATH...] [EXPRESSION]")
def find(view: View, words: tuple[str, ...], as_json: bool) -> None:
    """Find files at and below each PATH of IMAGE [default: /] for which EXPRESSION is true.

    Options precede IMAGE. Symlinks are not followed. Regular expressions are Python's, unless
    -regextype precedes them, and must match the whole path.
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
                elif action != "ls":
                    write_bytes(action.record(visit, show))
                else:
                    write_bytes(finding.ls_line(Listed.of(rootfs, visit.path, visit.nid), show) + b"\n")
    output.lines([])


def _begins_expression(word: str) -> bool:
    return word in {"(", ")", "!"} or (word.startswith("-") and word != "-")
