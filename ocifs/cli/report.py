"""`ocifs report`: a page about an image, to be looked at in a browser."""

import sys
from pathlib import Path

import click

from ocifs.cli.options import image_options, open_for_command, open_store
from ocifs.cli.output import write_bytes
from ocifs.spec.platform import Platform


@click.command(short_help="Write a page about an image.")
@image_options
@click.option("-o", "--output", metavar="FILE", required=True, help="Where to; - is standard output.")
@click.argument("image")
def report(image: str, platform: Platform | None, cache_dir: Path | None, max_cache_size: int, output: str) -> None:
    """Write an HTML page about IMAGE: layers, where the bytes are, what is wasted, history and config.

    The page is complete in itself, and asks the network for nothing. A file of that name is replaced, by the whole
    page or not at all.

    \b
    Try:  ocifs report -o report.html ./debian:latest
    """
    from ocifs.export.target import check_new_file, new_file
    from ocifs.report.inspection import inspect_image
    from ocifs.report.page import build_report, page

    if output != "-":
        check_new_file(output, replace=True)
    with open_for_command(image, platform, cache_dir, max_cache_size) as opened:
        found = build_report(opened, inspect_image(opened.resolved, open_store(cache_dir, max_cache_size)))
    pieces = (piece.encode() for piece in page(found))
    if output == "-":
        for piece in pieces:
            write_bytes(piece)
        sys.stdout.buffer.flush()
        return
    with new_file(output, replace=True) as file:
        file.writelines(pieces)
