"""`ocifs export`: an image written out whole."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from ocifs.cli.options import image_options, open_for_command, warn
from ocifs.cli.progress import exporting
from ocifs.errors import printable
from ocifs.spec.platform import Platform


@click.command(short_help="Write an image out as a directory, a tar or one mountable file.")
@image_options
@click.option("--to-dir", type=click.Path(), metavar="DIR", help="As a new or empty directory.")
@click.option("--rootless", is_flag=True, help="Record owners in user.rootlesscontainers (with --to-dir).")
@click.argument("image")
@click.argument("path", default="/")
def export(
    image: str,
    path: str,
    platform: Platform | None,
    cache_dir: Path | None,
    max_cache_size: int,
    to_dir: str,
    rootless: bool,
) -> None:
    """Write IMAGE, or what lies below PATH in it."""
    from ocifs.export.directory import export_directory

    with (
        ended_by_signals(),
        open_for_command(image, platform, cache_dir, max_cache_size) as opened,
        exporting() as progress,
    ):
        losses = export_directory(opened.rootfs, path, to_dir, rootless=rootless, progress=progress)
    for loss, count, first in losses:
        warn(f"{count} {'file' if count == 1 else 'files'} {loss.value}; as {printable(first)}")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do as SIGINT does; nothing interrupts what is cleared away then."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, frame: FrameType | None) -> None:
        for each in ending:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, end) for each in ending}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
