"""`ocifs report`: an HTML report on an image."""

import sys

import click

from ocifs.cli.options import Opening, image_options
from ocifs.cli.output import write_bytes


@click.command(short_help="Write an HTML report on an image.")
@image_options
@click.option("-o", "--output", metavar="FILE", required=True, help="Output file; - means standard output.")
@click.argument("image")
def report(image: str, opening: Opening, output: str) -> None:
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
    with opening.open(image) as opened:
        found = build_report(opened, inspect_image(opened.resolved, opening.store()))
    pieces = (piece.encode() for piece in page(found))
    if output == "-":
        for piece in pieces:
            write_bytes(piece)
        sys.stdout.buffer.flush()
        return
    with new_file(output, replace=True) as file:
        file.writelines(pieces)
