"""`ocifs report`: a page about an image, to be looked at in a browser."""

from pathlib import Path

import click

from ocifs.cli.options import image_options, open_for_command, open_store
from ocifs.spec.platform import Platform


@click.command(short_help="Write a page about an image.")
@image_options
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file, - for stdout."
)
@click.argument("image")
def report(image: str, platform: Platform | None, cache_dir: Path | None, max_cache_size: int, output: Path) -> None:
    """Write one HTML page about IMAGE: its layers, where its bytes are, its history and its config.

    The page is complete in itself: it asks the network for nothing. The file is replaced once it is whole.

    \b
    Try:  ocifs report ./debian:latest -o report.html
    """
