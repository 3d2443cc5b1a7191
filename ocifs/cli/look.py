"""`ocifs ls`, `cat` and `stat`: looking into an image without a mount."""

import os
import shutil
import sys
from pathlib import Path

import click

from ocifs.cli.options import image_options, json_option, open_for_command, shown_name, write_bytes
from ocifs.report.listing import Listed, describe, list_directory, long_lines, to_json
from ocifs.spec.platform import Platform


@click.command(short_help="List a directory of an image.")
@image_options
@click.option("-l", "long", is_flag=True, help="Mode, links, owner, size, time and link target as well.")
@click.option("-R", "recursive", is_flag=True, help="Everything below, as paths.")
@click.option("-a", "show_all", is_flag=True, help="Names that begin with a dot as well.")
@click.option("-d", "itself", is_flag=True, help="A directory itself, not what is in it.")
@json_option
@click.argument("image")
@click.argument("path", default="/")
def ls(
    image: str,
    path: str,
    platform: Platform | None,
    cache_dir: Path | None,
    max_cache_size: int,
    long: bool,
    recursive: bool,
    show_all: bool,
    itself: bool,
    as_json: bool,
) -> None:
    """List PATH in IMAGE; a symlink in PATH is followed within the image.

    With --json one object for each line: path, type, mode, nlink, uid, gid, size, mtime_ns, and target, rdev, where
    there are such. Owners are numbers, as stored.

    \b
    Try:  ocifs ls -l ./debian:latest /etc
    """
    with open_for_command(image, platform, cache_dir, max_cache_size) as opened:
        entries = list_directory(opened.rootfs, os.fsencode(path), recursive=recursive, itself=itself)
        shown = (entry for entry in entries if show_all or as_json or not entry.is_hidden)
        if as_json:
            for entry in shown:
                write_bytes(to_json(entry) + b"\n")
        elif long:
            for line in long_lines(list(shown), shown_name):
                write_bytes(line + b"\n")
        else:
            for entry in shown:
                write_bytes(shown_name(entry.path) + b"\n")
    sys.stdout.buffer.flush()


@click.command(short_help="Print a file of an image.")
@image_options
@click.argument("image")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def cat(
    image: str, paths: tuple[str, ...], platform: Platform | None, cache_dir: Path | None, max_cache_size: int
) -> None:
    """Write the files at PATH in IMAGE to standard output, one after the other.

    Only the parts of layers that hold them are read.

    \b
    Try:  ocifs cat ./debian:latest /etc/os-release
    """
    with open_for_command(image, platform, cache_dir, max_cache_size) as opened:
        for path in paths:
            with opened.rootfs.open(path) as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
    sys.stdout.buffer.flush()


@click.command(short_help="Show all that is known of a file.")
@image_options
@click.option("--follow", "-L", is_flag=True, help="Of what a symlink leads to.")
@json_option
@click.argument("image")
@click.argument("path")
def stat(
    image: str,
    path: str,
    platform: Platform | None,
    cache_dir: Path | None,
    max_cache_size: int,
    follow: bool,
    as_json: bool,
) -> None:
    """Show the attributes of PATH in IMAGE, its extended attributes, and the layers that hold its bytes."""
    with open_for_command(image, platform, cache_dir, max_cache_size) as opened:
        rootfs = opened.rootfs
        name = os.fsencode(path)
        listed = Listed.of(rootfs, name, rootfs.lookup(name, follow=follow), detailed=True)
        if as_json:
            write_bytes(to_json(listed) + b"\n")
        else:
            layers = [layer.descriptor.digest for layer in opened.resolved.layers]
            for line in describe(listed, layers, shown_name):
                write_bytes(line + b"\n")
    sys.stdout.buffer.flush()
