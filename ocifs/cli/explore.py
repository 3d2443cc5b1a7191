"""`ocifs explore`: browse an image in the terminal."""

import sys
from typing import TYPE_CHECKING

import click

from ocifs.cli.options import Opening, image_options

if TYPE_CHECKING:
    from ocifs.image.rootfs import Rootfs


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

        Explorer(opened, copy_out).run()


def copy_out(rootfs: "Rootfs", path: str, destination: str) -> list[str]:
    """Copy a file or directory like `ocifs cp -r`; return warnings."""
    from ocifs.cli.copying import copy

    return list(copy(rootfs, path, destination, recursive=True, preserve=False).messages())
