"""`ocifs index`: make what a mount needs, ahead of time, say what it is, and let it travel with the image."""

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from ocifs.cli.options import access_of_command, image_options, json_option, open_for_command, open_store
from ocifs.errors import NotFoundError
from ocifs.report.index import index_report, render_index
from ocifs.report.text import human_size
from ocifs.spec.platform import Platform
from ocifs.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocifs.image.published import PublishedIndex
    from ocifs.sources.resolve import ResolvedImage
    from ocifs.sources.source import Source
    from ocifs.spec.descriptor import Descriptor


class _Index(click.Group):
    """`ocifs index IMAGE` is what it was before there was anything else to do with an index."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Index, short_help="Index an image ahead of time.")
def index() -> None:
    """Index images ahead of time, and publish the indexes beside them.

    `ocifs index IMAGE` is `ocifs index make IMAGE`; an IMAGE that is called as a command is written ./push.
    """


@index.command(short_help="Index the layers of an image, and merge them.")
@image_options
@json_option
@click.argument("image")
def make(image: str, platform: Platform | None, cache_dir: Path | None, max_cache_size: int, as_json: bool) -> None:
    """Index the layers of IMAGE and merge them, as the first mount would, and report.

    Every byte is read and checked: each layer's size and digest, and its diff ID.
    """
    began = time.monotonic()
    with open_for_command(image, platform, cache_dir, max_cache_size, lazy=False) as opened:
        report = index_report(opened, time.monotonic() - began)
    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode() if as_json else render_index(report))


@index.command(short_help="Publish the index of an image beside it.")
@image_options
@click.argument("image")
def push(image: str, platform: Platform | None, cache_dir: Path | None, max_cache_size: int) -> None:
    """Index IMAGE, if it is not, and put the index beside it: into its registry, or its layout directory.

    It is an OCI artifact whose subject is the image's manifest; the image stays as it is. Whoever mounts the image from
    the registry by its tag fetches only what is read of it.

    \b
    Try:  ocifs index push docker://registry.example/app:1
    """
    from ocifs.image.published import make_artifact, referrers_of

    with open_for_command(image, platform, cache_dir, max_cache_size, lazy=False) as opened:
        manifest, blobs = make_artifact(opened.resolved, opened.indexes)
        referrers_of(opened.source, opened.resolved.name).attach(opened.resolved.descriptor, manifest, blobs)
        size = sum(blob.descriptor.size for blob in blobs)
        click.echo(f"{manifest.descriptor.digest}  {len(blobs) - 1} layers  {human_size(size)}")


@index.command(short_help="Fetch the index that is published of an image.")
@image_options
@click.argument("image")
def pull(image: str, platform: Platform | None, cache_dir: Path | None, max_cache_size: int) -> None:
    """Fetch the index that is published of IMAGE into the cache, for a mount to come.

    What is fetched is used as a mount would use it: for a tag at once, for a digest with --trust-index.
    """
    from ocifs.image.kept import in_file
    from ocifs.image.published import indexes_in

    store = open_store(cache_dir, max_cache_size)
    with _artifacts(image, platform, store) as (source, resolved, found):
        if not found:
            raise NotFoundError(f"{resolved.name}: no index is published of it: `ocifs index push` does that")
        published = indexes_in(source, found[0], resolved.digest)
        for blob in [source.open(each.descriptor) for each in published]:
            in_file(blob)
    click.echo(_described(found[0], published))


@index.command("ls", short_help="List the indexes that are published of an image.")
@image_options
@click.argument("image")
def list_published(image: str, platform: Platform | None, cache_dir: Path | None, max_cache_size: int) -> None:
    """List the indexes that are published of IMAGE, the one that is taken first."""
    from ocifs.image.published import indexes_in

    with _artifacts(image, platform, open_store(cache_dir, max_cache_size)) as (source, resolved, found):
        for artifact in found:
            click.echo(_described(artifact, indexes_in(source, artifact, resolved.digest)))


@index.command(short_help="Remove the indexes that are published of an image.")
@image_options
@click.argument("image")
def rm(image: str, platform: Platform | None, cache_dir: Path | None, max_cache_size: int) -> None:
    """Remove all indexes that are published of IMAGE from its registry, or its layout directory."""
    from ocifs.image.published import referrers_of

    with _artifacts(image, platform, open_store(cache_dir, max_cache_size)) as (source, resolved, found):
        for artifact in found:
            referrers_of(source, resolved.name).detach(resolved.descriptor, artifact)
            click.echo(f"removed {artifact.digest}")


@contextmanager
def _artifacts(
    image: str, platform: Platform | None, store: Store
) -> "Iterator[tuple[Source, ResolvedImage, list[Descriptor]]]":
    """Give the source of an image, the image, and the artifacts that are published of it."""
    from ocifs.image.kept import open_kept
    from ocifs.image.published import list_artifacts
    from ocifs.sources.reference import parse_reference
    from ocifs.sources.resolve import resolve_image

    reference = parse_reference(image)
    source = open_kept(reference, store, access_of_command())
    try:
        resolved = resolve_image(source, reference, platform)
        yield source, resolved, list_artifacts(source, resolved)
    finally:
        source.close()


def _described(artifact: "Descriptor", published: "list[PublishedIndex]") -> str:
    size = sum(each.descriptor.size for each in published)
    return f"{artifact.digest}  {len(published)} layers  {human_size(size)}"
