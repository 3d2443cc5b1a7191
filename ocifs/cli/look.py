"""`ocifs stat` and `blame`: names and attributes of an image, without a mount."""

import os
import sys

import click
import msgspec

from ocifs.cli.command import command
from ocifs.cli.options import json_option
from ocifs.cli.output import Output, write_bytes
from ocifs.cli.unsupported import unsupported
from ocifs.cli.view import View, merged_view_options, view_options
from ocifs.image.opening import Image
from ocifs.image.passwd import Names
from ocifs.report.listing import Listed, Show, describe, to_json
from ocifs.report.stat_format import Form, FormatError, parse_format


@command()
@view_options
@click.option("--follow", "--dereference", "-L", is_flag=True, help="Follow a symlink.")
@click.option("-c", "--format", "line", metavar="FORMAT", help="Print FORMAT for each file, as GNU stat does: '%s %n'.")
@click.option(
    "--printf", "text", metavar="FORMAT", help="Like -c, with escapes such as \\n, and no newline at the end."
)
@unsupported("-f", "--file-system", use="`ocifs du` adds up sizes, and `ocifs inspect` shows the image")
@unsupported("-t", "--terse", use="-c FORMAT")
@unsupported("--cached", use="an image never changes: leave it out")
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def stat(view: View, paths: tuple[str, ...], follow: bool, line: str | None, text: str | None, as_json: bool) -> None:
    """Show the attributes of PATH in IMAGE, its extended attributes, and the layers that hold its bytes.

    \b
    Try:  ocifs stat ./debian:latest:/etc/passwd
          ocifs stat -c '%a %U:%G %s %n' ./debian:latest '/etc/*'
    """
    output = Output()
    form = _stat_format(line, text, output.show)
    with view.files(paths) as (opened, expanded):
        names = Names(opened.rootfs)
        for path in expanded:
            nid = opened.rootfs.lookup(path, follow=follow)
            if form is not None:
                write_bytes(form(Listed.of(opened.rootfs, path, nid), names))
                continue
            listed = Listed.of(opened.rootfs, path, nid, detailed=True)
            output.lines([to_json(listed)] if as_json else describe(listed, _digests(opened), output.show))
    sys.stdout.buffer.flush()


def _stat_format(line: str | None, text: str | None, show: Show) -> Form | None:
    """Return what renders a file in the format of `-c` or `--printf`; None if there is none. Raises UsageError."""
    if line is None and text is None:
        return None
    try:
        if line is not None:
            form = parse_format(os.fsencode(line), show)
            return lambda entry, names: form(entry, names) + b"\n"
        return parse_format(os.fsencode(text or ""), show, escapes=True)
    except FormatError as error:
        raise click.UsageError(str(error)) from None


@command()
@merged_view_options
@json_option
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def blame(view: View, paths: tuple[str, ...], as_json: bool) -> None:
    """Show which layers of IMAGE added, changed or removed PATH, and which versions are hidden.

    With --json, print one object for each change on a line.

    \b
    Try:  ocifs blame ./debian:latest /etc/issue
    """
    from ocifs.report.blame import history_lines, history_members, path_history

    output = Output()
    with view.files(paths) as (opened, several):
        for path in several:
            events = path_history(opened, path)
            if as_json:
                output.lines(msgspec.json.encode(history_members(path, event)) for event in events)
            else:
                if len(several) > 1:
                    output.lines([output.show(path) + b":"])
                output.lines(history_lines(events, _digests(opened), output.show))


def _digests(opened: Image) -> list[str]:
    return [layer.descriptor.digest for layer in opened.resolved.layers]
