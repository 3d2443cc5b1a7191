"""`ocifs report`: an HTML report on an image."""

import sys

import click

from ocifs.cli.command import command
from ocifs.cli.options import image_options, open_image
from ocifs.cli.output import write_bytes
from ocifs.options import Options


@command()
@image_options
@click.option("-o", "--output", metavar="FILE", required=True, help="Output file; - means standard output.")
@click.argument("image")
def report(image: str, options: Options, output: str) -> None:
    """Write an HTML page about IMAGE: layers, a map of its bytes, waste, history and config.

    The page is self-contained and needs no network. It replaces an existing file, complete or not at all.

    \b
    Try:  ocifs report -o report.html ./debian:latest
    """
    from ocifs.export.target import check_new_file, new_file
    from ocifs.report.inspection import inspect_image
    from ocifs.report.page import build_report, page

    if output != "-":
        check_new_file(output, replace=True)
    with open_image(image, options) as opened:
        found = build_report(opened, inspect_image(opened.resolved, options.store))
    pieces = (piece.encode() for piece in page(found))
    if output == "-":
        for piece in pieces:
            write_bytes(piece)
        sys.stdout.buffer.flush()
        return
    with new_file(output, replace=True) as file:
        file.writelines(pieces)
