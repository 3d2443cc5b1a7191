"""`ocifs explore`: browse an image in the terminal."""

import sys

import click

from ocifs.cli.options import Opening, image_options


@click.command(short_help="Browse an image in the terminal.")
@image_options
@click.argument("image")
def explore(image: str, opening: Opening) -> None:
    """Browse IMAGE in the terminal: its layers, its files, and the changes of each layer. Press `?` for the keys.

    \b
    Try:  ocifs explore ./debian:latest
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("explore needs a terminal; tree prints, and report writes a page")
    with opening.open(image) as opened:
        from ocifs.explore.app import Explorer

        Explorer(opened).run()
