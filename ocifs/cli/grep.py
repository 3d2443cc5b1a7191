"""`ocifs grep`: search the files of an image without a mount."""

import itertools
import os
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

import click

from ocifs.cli.command import command
from ocifs.cli.exit_status import NO, YES, failures_not_as_no
from ocifs.cli.options import View, json_option, view_options
from ocifs.cli.output import Output, null_option
from ocifs.image.glob import expand
from ocifs.report.grep import Match, Pattern, Searched, to_json
from ocifs.report.grep import grep as search


@command()
@click.argument("pattern")
@view_options
@click.option("-F", "--fixed-strings", "fixed", is_flag=True, help="PATTERN is text, not a regular expression.")
@click.option("-i", "--ignore-case", is_flag=True, help="Ignore the case of ASCII letters.")
@click.option("-w", "--word-regexp", "words", is_flag=True, help="Match whole words only.")
@click.option("-l", "--files-with-matches", "names_only", is_flag=True, help="Print only the names of matching files.")
@click.option("-c", "--count", is_flag=True, help="Print only the number of matching lines of each file.")
@click.option("-n", "--line-number", "numbers", is_flag=True, help="Print line numbers.")
@click.option("-a", "--text", is_flag=True, help="Treat binary files as text.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing, and exit at the first match.")
@click.option(
    "-r",
    "-R",
    "--recursive",
    is_flag=True,
    expose_value=False,
    help="Accepted for compatibility: directories are always searched.",
)
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Search only files whose name matches GLOB (repeatable)."
)
@null_option
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def grep(
    view: View,
    pattern: str,
    paths: tuple[str, ...],
    fixed: bool,
    ignore_case: bool,
    words: bool,
    names_only: bool,
    count: bool,
    numbers: bool,
    text: bool,
    quiet: bool,
    include: tuple[str, ...],
    null: bool,
    as_json: bool,
) -> int:
    """Print the lines that match PATTERN in the files at and below each PATH of IMAGE [default: /].

    PATTERN is a Python regular expression on bytes. The exit status is 0 if a line matches, and 1 if none does. Files
    come in the order of the layers, so that each span is decoded once.

    \b
    Try:  ocifs grep -n '^PermitRoot' ./debian:latest /etc
          ocifs grep -lF libssl.so.3 ./debian:latest /usr/lib
          ocifs grep -c import --include '*.py' ./debian:latest /usr
    """
    output = Output(null)
    try:
        wanted = Pattern(os.fsencode(pattern), fixed=fixed, ignore_case=ignore_case, words=words)
    except re.error as error:
        raise click.UsageError(f"PATTERN: {error}") from None
    named = view.paths(paths, "/")
    with failures_not_as_no(), view.open() as opened:
        starts = expand(opened.rootfs, named)
        searched = search(opened.rootfs, starts, wanted, include)
        if quiet:
            return YES if any(next(file.matches, None) for file in searched) else NO
        several = len(starts) > 1 or stat.S_ISDIR(opened.rootfs.tree.inode(opened.rootfs.lookup(starts[0])).mode)
        told = _Told(output, names_only, count, numbers, text, as_json, several)
        lines = (line for file in searched for line in told.lines(file))
        first = next(lines, None)
        if first is None:
            return NO
        output.lines(itertools.chain([first], lines))
        return YES


class _Told(NamedTuple):
    """What to print for a matching file: a line for each match, or one line in total."""

    output: Output
    names_only: bool
    counted: bool
    numbers: bool
    text: bool
    as_json: bool
    named: bool
    """Whether lines start with the file name."""

    def lines(self, file: Searched) -> Iterator[bytes]:
        """Yield the lines; none if nothing matches."""
        first = next(file.matches, None)
        if first is None:
            return
        name = self.output.show(file.path)
        if self.names_only:
            yield to_json(file.path) if self.as_json else name
        elif self.counted:
            number = 1 + sum(1 for _ in file.matches)
            yield to_json(file.path, count=number) if self.as_json else self._begin(name) + b"%d" % number
        elif file.binary and not self.text:
            yield to_json(file.path, binary=True) if self.as_json else b"Binary file " + name + b" matches"
        else:
            for match in itertools.chain([first], file.matches):
                yield to_json(file.path, match) if self.as_json else self._line(name, match)

    def _begin(self, name: bytes) -> bytes:
        return name + b":" if self.named else b""

    def _line(self, name: bytes, match: Match) -> bytes:
        number = b"%d:" % match.number if self.numbers else b""
        return self._begin(name) + number + self.output.text(match.line)
