"""`ocifs export`: write a whole image."""

import os
import sys
from typing import TYPE_CHECKING

import click

from ocifs.cli.command import Option, command
from ocifs.cli.options import image_options, open_image, warn
from ocifs.cli.progress import exporting
from ocifs.cli.signals import ended_by_signals
from ocifs.cli.view import one_path
from ocifs.options import Options

if TYPE_CHECKING:
    from ocifs.export.data import Progress
    from ocifs.export.losses import Losses
    from ocifs.image.rootfs import Rootfs

_STDOUT = "-"


@command()
@image_options
@click.option("--to-dir", type=click.Path(), metavar="DIR", help="Write to the new or empty directory DIR.")
@click.option("--to-tar", type=click.Path(), metavar="FILE", help="Write to the new tar FILE; -: standard output.")
@click.option("--to-erofs", type=click.Path(), metavar="FILE", help="Write to the new EROFS image FILE.")
@click.option("--prefix", default="", metavar="PATH", help="Relative path before each name in the tar.")
@click.option(
    "--rootless",
    cls=Option,
    is_flag=True,
    help="Record owners as xattrs, with --to-dir.",
    details="In user.rootlesscontainers, instead of setting them.",
)
@click.argument("image", metavar="IMAGE[:/PATH]")
@click.argument("path", required=False)
def export(
    image: str,
    path: str | None,
    options: Options,
    to_dir: str | None,
    to_tar: str | None,
    to_erofs: str | None,
    prefix: str,
    rootless: bool,
) -> None:
    """Write IMAGE, or its directory PATH, to the target of --to-dir, --to-tar or --to-erofs.

    The target appears complete, or not at all. An image always yields the same tar and EROFS file. What cannot be
    reproduced exactly (mostly without root) is reported as a warning.

    \b
    Try:  ocifs export ./debian:latest --to-dir rootfs
          ocifs export ./debian:latest --to-tar - /etc | tar -t
          ocifs export ./debian:latest --to-erofs debian.erofs
    """
    if sum(target is not None for target in (to_dir, to_tar, to_erofs)) != 1:
        raise click.UsageError("use exactly one of --to-dir, --to-tar and --to-erofs")
    if rootless and to_dir is None:
        raise click.UsageError("--rootless requires --to-dir")
    if prefix and to_tar is None:
        raise click.UsageError("--prefix requires --to-tar")
    _check_target(to_dir, to_tar, to_erofs)  # before the image is indexed in vain
    image, path = one_path(image, path)
    with (
        ended_by_signals(),
        open_image(image, options) as opened,
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
