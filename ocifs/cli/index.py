"""`ocifs index`: make what a mount needs, ahead of time, and say what it is."""

import time
from pathlib import Path

import click
import msgspec

from ocifs.cli.options import image_options, json_option, open_for_command
from ocifs.report.index import index_report, render_index
from ocifs.spec.platform import Platform


@click.command(short_help="Index an image ahead of time.")
@image_options
@json_option
@click.argument("image")
def index(image: str, platform: Platform | None, cache_dir: Path | None, max_cache_size: int, as_json: bool) -> None:
    """Index the layers of IMAGE and merge them, as the first mount would, and report.

    Every byte is read and checked: each layer's size and digest, and its diff ID.
    """
    began = time.monotonic()
    with open_for_command(image, platform, cache_dir, max_cache_size) as opened:
        report = index_report(opened, time.monotonic() - began)
    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode() if as_json else render_index(report))
