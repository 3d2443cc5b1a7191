"""`ocifs explore`: browse an image in the terminal."""

import sys
from typing import TYPE_CHECKING

import click

from ocifs.cli.command import command
from ocifs.cli.options import image_options, open_image
from ocifs.options import Options

if TYPE_CHECKING:
    from ocifs.image.rootfs import Rootfs


@command()
@image_options
@click.argument("image")
def explore(image: str, options: Options) -> None:
    """Browse IMAGE in the terminal: its layers, its files, and the changes of each layer. Press `?` for the keys.

    \b
    Try:  ocifs explore ./debian:latest
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("explore needs a terminal; tree prints, and report writes a page")
    from ocifs.explore.app import Explorer  # before indexing, since its extra may be missing

    with open_image(image, options) as opened:
        Explorer(opened, copy_out).run()


def copy_out(rootfs: "Rootfs", path: str, destination: str) -> list[str]:
    """Copy a file or directory like `ocifs cp -r -T`; return warnings."""
    from ocifs.cli.copying import Copying, copy

    return list(copy(rootfs, path, destination, Copying(recursive=True, into=False)).messages())
