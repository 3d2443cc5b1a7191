"""`ocifs inspect` and `history`: the metadata of an image. Neither indexes anything."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from ocifs.cli.command import command
from ocifs.cli.options import document_options, json_option, open_source
from ocifs.cli.output import terminal_width, write_bytes
from ocifs.options import Options
from ocifs.sources.resolve import resolve_image

if TYPE_CHECKING:
    from ocifs.blobs.source import Source
    from ocifs.sources.reference import Reference


@command()
@document_options
@click.option("--all", "show_all", is_flag=True, help="List all images, with tags and platforms.")
@click.option("--raw", is_flag=True, help="Print the manifest, or config, unchanged.")
@click.option("--config", "config_only", is_flag=True, help="Print the config as JSON.")
@json_option
@click.argument("image")
def inspect(
    image: str,
    options: Options,
    show_all: bool,
    raw: bool,
    config_only: bool,
    as_json: bool,
) -> None:
    """Show digests, platform, config and layers of IMAGE, and which of its indexes are in the cache.

    The command indexes nothing: it shows entries and whiteouts only of indexed layers.

    \b
    Try:  ocifs inspect ./debian:latest
          ocifs inspect --all ./debian
          ocifs inspect --raw ./debian:latest | jq .layers
    """
    from ocifs.report.inspection import image_lines, inspect_image, inspection_lines, list_images

    if show_all and (raw or config_only):
        raise click.UsageError("--all cannot be combined with --raw or --config")
    with _opened(image, options) as (source, reference):
        if show_all:
            images = list(list_images(source))
            objects = (msgspec.json.encode(image).decode() for image in images)
            _print_lines(objects if as_json else image_lines(images, terminal_width()))
            return
        resolved = resolve_image(source, reference, options.platform)
        if raw or config_only:
            data = source.document(resolved.manifest.config if config_only else resolved.descriptor)
            write_bytes(data if raw else msgspec.json.format(data) + b"\n")
            sys.stdout.buffer.flush()
            return
        inspected = inspect_image(resolved, options.store)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(inspected)).decode())
    else:
        _print_lines(inspection_lines(inspected))


@command()
@document_options
@click.option("--no-trunc", "whole", is_flag=True, help="Do not cut commands to the terminal's width.")
@json_option
@click.argument("image")
def history(image: str, options: Options, whole: bool, as_json: bool) -> None:
    """Show the build steps of IMAGE, the first one first, with the layer each created and its stored size.

    With --json, print one object for each step on a line.
    """
    from ocifs.report.history import build_history, history_lines

    with _opened(image, options) as (source, reference):
        steps = build_history(resolve_image(source, reference, options.platform))
    if as_json:
        _print_lines(msgspec.json.encode(step).decode() for step in steps)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() and not whole else None
        _print_lines(history_lines(steps, width))


@contextmanager
def _opened(image: str, options: Options) -> "Iterator[tuple[Source, Reference]]":
    source, reference = open_source(image, options)
    try:
        yield source, reference
    finally:
        source.close()


def _print_lines(lines: Iterator[str]) -> None:
    for line in lines:
        write_bytes(line.encode() + b"\n")
    sys.stdout.buffer.flush()
