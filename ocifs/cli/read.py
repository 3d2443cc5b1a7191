"""`ocifs cat`, `head` and `cp`: read files of an image, decoding only the spans that hold them."""

import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import IO

import click

from ocifs.cli.command import command
from ocifs.cli.options import View, view_options, warn
from ocifs.cli.output import shown_name, write_bytes
from ocifs.cli.signals import ended_by_signals
from ocifs.cli.types import Size
from ocifs.errors import printable_path
from ocifs.image.glob import expand

_CHUNK = 1 << 20


@command()
@view_options
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def cat(view: View, paths: tuple[str, ...]) -> None:
    """Write the files at PATH in IMAGE to standard output, one after the other.

    \b
    Try:  ocifs cat ./debian:latest /etc/os-release
    """
    named = view.paths(paths)
    with view.open() as opened:
        for path in expand(opened.rootfs, named):
            with opened.rootfs.open(path) as file:
                shutil.copyfileobj(file, sys.stdout.buffer, _CHUNK)
    sys.stdout.buffer.flush()


@command()
@view_options
@click.option("-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="Number of lines.")
@click.option("-c", "--bytes", "size", type=Size(), metavar="SIZE", help="Number of bytes to print, instead of lines.")
@click.option("-q", "--quiet", is_flag=True, help="Print no headings for several files.")
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def head(view: View, paths: tuple[str, ...], lines: int, size: int | None, quiet: bool) -> None:
    """Write the first lines, or bytes, of the files at PATH in IMAGE to standard output.

    \b
    Try:  ocifs head -c 64 ./debian:latest /bin/ls | od -c
    """
    named = view.paths(paths)
    with view.open() as opened:
        several = expand(opened.rootfs, named)
        for number, path in enumerate(several):
            with opened.rootfs.open(path) as file:
                if len(several) > 1 and not quiet:
                    _heading(path, first=number == 0)
                if size is None:
                    _write_lines(file, lines)
                else:
                    _write_size(file, size)
    sys.stdout.buffer.flush()


@command()
@view_options
@click.option("-r", "-R", "--recursive", is_flag=True, help="Copy directories recursively.")
@click.option("-p", "--preserve", is_flag=True, help="Preserve mode, times and, as root, the owner.")
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@click.argument("destination", metavar="DEST")
def cp(view: View, paths: tuple[str, ...], destination: str, recursive: bool, preserve: bool) -> None:
    """Copy the files at PATH in IMAGE to DEST, or into the directory DEST.

    A copy appears complete, or not at all. It replaces an existing file; a target directory must be new or empty. Holes
    of sparse files stay holes.

    \b
    Try:  ocifs cp ./debian:latest /etc/os-release /etc/passwd .
          ocifs cp -r ./debian:latest /etc etc
    """
    from ocifs.cli.copying import copy

    named = view.paths(paths)
    with ended_by_signals(), view.open() as opened:
        several = expand(opened.rootfs, named)
        if len(several) > 1 and not Path(destination).is_dir():
            raise click.UsageError(f"cannot copy several files: {printable_path(destination)} is not a directory")
        for path in several:
            losses = copy(opened.rootfs, os.fsdecode(path), destination, recursive=recursive, preserve=preserve)
            for message in losses.messages():
                warn(message)


def _heading(path: bytes, *, first: bool) -> None:
    write_bytes((b"" if first else b"\n") + b"==> " + shown_name(path) + b" <==\n")


def _write_lines(file: IO[bytes], count: int) -> None:
    """Write lines; an endless line is written in pieces."""
    while count:
        piece = file.readline(_CHUNK)
        if not piece:
            break
        write_bytes(piece)
        count -= piece.endswith(b"\n")


def _write_size(file: IO[bytes], size: int) -> None:
    for left in itertools.count(size, -_CHUNK):
        if left <= 0 or not (piece := file.read(min(left, _CHUNK))):
            break
        write_bytes(piece)
