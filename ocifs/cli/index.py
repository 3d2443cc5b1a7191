"""`ocifs index`: make what a mount needs, ahead of time, and say what it is."""

import time

import click
import msgspec

from ocifs.cli.options import Opening, image_options, json_option
from ocifs.report.index import index_report, render_index


@click.command(short_help="Index an image ahead of time.")
@image_options
@click.option("--low-memory", is_flag=True, help="Take less memory, and more time: one layer at a time.")
@json_option
@click.argument("image")
def index(image: str, opening: Opening, low_memory: bool, as_json: bool) -> None:
    """Index the layers of IMAGE and merge them, as the first mount would, and report.

    Every byte is read and checked: each layer's size and digest, and its diff ID.
    """
    began = time.monotonic()
    with opening._replace(low_memory=low_memory).open(image) as opened:
        report = index_report(opened, time.monotonic() - began)
    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode() if as_json else render_index(report))
