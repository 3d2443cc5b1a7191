"""`ocifs export`: an image written out whole."""

import os
import sys
from typing import TYPE_CHECKING

import click

from ocifs.cli.options import Opening, image_options, warn
from ocifs.cli.progress import exporting
from ocifs.cli.signals import ended_by_signals

if TYPE_CHECKING:
    from ocifs.export.data import Progress
    from ocifs.export.losses import Losses
    from ocifs.image.rootfs import Rootfs

_STDOUT = "-"


@click.command(short_help="Write an image out: as a directory, a tar or a mountable file.")
@image_options
@click.option("--to-dir", type=click.Path(), metavar="DIR", help="Into DIR, which must be new or empty.")
@click.option("--to-tar", type=click.Path(), metavar="FILE", help="As the new tar FILE; - is standard output.")
@click.option("--to-erofs", type=click.Path(), metavar="FILE", help="As the new EROFS FILE, which Linux can mount.")
@click.option("--prefix", default="", metavar="PATH", help="Put before each name in the tar.")
@click.option(
    "--rootless",
    is_flag=True,
    help="With --to-dir: record owners in user.rootlesscontainers instead of giving files away.",
)
@click.argument("image")
@click.argument("path", default="/")
def export(
    image: str,
    path: str,
    opening: Opening,
    to_dir: str | None,
    to_tar: str | None,
    to_erofs: str | None,
    prefix: str,
    rootless: bool,
) -> None:
    """Write out all of IMAGE, or what is in its directory PATH; give one of --to-dir, --to-tar and --to-erofs.

    What is written appears when it is whole, or not at all. The same image always gives the same tar and EROFS file.
    What cannot be made as the image has it, which is mostly so for others than root, is told in warnings.

    \b
    Try:  ocifs export ./debian:latest --to-dir rootfs
          ocifs export ./debian:latest --to-tar - /etc | tar -t
          ocifs export ./debian:latest --to-erofs debian.erofs
    """
    if sum(target is not None for target in (to_dir, to_tar, to_erofs)) != 1:
        raise click.UsageError("give one of --to-dir, --to-tar and --to-erofs")
    if rootless and to_dir is None:
        raise click.UsageError("--rootless goes with --to-dir")
    if prefix and to_tar is None:
        raise click.UsageError("--prefix goes with --to-tar")
    _check_target(to_dir, to_tar, to_erofs)  # before an image is indexed in vain
    with (
        ended_by_signals(),
        opening.open(image) as opened,
        exporting() as progress,
    ):
        if to_dir is not None:
            from ocifs.export.directory import export_directory

            losses = export_directory(opened.rootfs, path, to_dir, rootless=rootless, progress=progress)
        elif to_erofs is not None:
            from ocifs.export.erofs import export_erofs

            losses = export_erofs(opened.rootfs, path, to_erofs, progress=progress)
        else:
            losses = _export_tar(opened.rootfs, path, to_tar or _STDOUT, prefix, progress)
    for message in losses.messages():
        warn(message)


def _check_target(to_dir: str | None, to_tar: str | None, to_erofs: str | None) -> None:
    from ocifs.export.target import check_new_directory, check_new_file

    if to_dir is not None:
        check_new_directory(to_dir)
    elif to_tar != _STDOUT:
        check_new_file(to_tar or to_erofs or "")
    elif sys.stdout.isatty():
        raise click.UsageError("standard output is a terminal: name a file, or pipe the tar to a program")


def _export_tar(rootfs: "Rootfs", path: str, target: str, prefix: str, progress: "Progress | None") -> "Losses":
    from ocifs.export.archive import export_tar, write_tar

    if target != _STDOUT:
        return export_tar(rootfs, path, target, prefix=os.fsencode(prefix), progress=progress)
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        return write_tar(rootfs, path, out, prefix=os.fsencode(prefix), progress=progress)
