"""`ocifs explore`: a screen to look around in an image."""

import sys
from pathlib import Path

import click

from ocifs.cli.options import image_options, open_for_command
from ocifs.spec.platform import Platform


@click.command(short_help="Look around in an image, on a screen.")
@image_options
@click.argument("image")
def explore(image: str, platform: Platform | None, cache_dir: Path | None, max_cache_size: int) -> None:
    """Look around in IMAGE on the terminal: its layers, its files, and what each layer changes. `?` shows the keys.

    \b
    Try:  ocifs explore ./debian:latest
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("explore needs a terminal; tree prints, and report writes a page")
    with open_for_command(image, platform, cache_dir, max_cache_size) as opened:
        from ocifs.explore.app import Explorer

        Explorer(opened).run()
