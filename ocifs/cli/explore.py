"""`ocifs explore`: a screen to look around in an image."""

import sys

import click

from ocifs.cli.options import Opening, image_options


@click.command(short_help="Look around in an image, on a screen.")
@image_options
@click.argument("image")
def explore(image: str, opening: Opening) -> None:
    """Look around in IMAGE on the terminal: its layers, its files, and what each layer changes. `?` shows the keys.

    \b
    Try:  ocifs explore ./debian:latest
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("explore needs a terminal; tree prints, and report writes a page")
    with opening.open(image) as opened:
        from ocifs.explore.app import Explorer

        Explorer(opened).run()
