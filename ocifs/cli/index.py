"""`ocifs index`: index an image ahead of time, and publish or fetch indexes."""

import re
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from msgspec.structs import replace

from ocifs.cli.command import Group, Option
from ocifs.cli.options import document_options, image_options, json_option, open_image, open_source, warn
from ocifs.cli.output import terminal_width
from ocifs.cli.types import Size
from ocifs.errors import NotFoundError, OcifsError, counted, printable_path
from ocifs.indexes.soci_writer import MIN_LAYER_SIZE
from ocifs.options import Options
from ocifs.report.index import index_report, render_index
from ocifs.report.text import human_size
from ocifs.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocifs.cli.pushing import Form
    from ocifs.image.opening import Image
    from ocifs.indexes.candidate import Candidate, LookupContext
    from ocifs.spec.digest import Digest


_RECORD_SECONDS = 5.0
"""Seconds to wait for the first pause of a mount, and until its reads are saved."""
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


class _Index(Group):
    """A group whose default command is `make`: `ocifs index IMAGE` indexes the image."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Index, subcommand_metavar="IMAGE | COMMAND IMAGE")
def index() -> None:
    """Index images ahead of time, and publish the indexes beside them.

    `ocifs index IMAGE` means `ocifs index make IMAGE`, whose options `ocifs help index make` lists. Write
    ./push for an IMAGE that has the name of a command.

    \b
    Try:  ocifs index ./debian:latest
          ocifs index push docker://registry.example/app:1
    """


_record_option = click.option(
    "--record",
    metavar="MOUNTPOINT",
    cls=Option,
    help="Wait until the first reads of this mount are saved.",
    details="In the hot pack of IMAGE, which later mounts read first.",
)


@index.command(short_help="Index and merge the layers of an image.")
@image_options
@_record_option
@click.option(
    "--gzidx",
    multiple=True,
    metavar="[N=]FILE",
    cls=Option,
    help="Use the checkpoints of a GZIDX file.",
    details="For the layer that they match, or for layer N. Repeatable.",
)
@click.option("--low-memory", is_flag=True, help="Use less memory: one layer at a time, slower.")
@json_option
@click.argument("image")
def make(
    image: str, options: Options, record: str | None, gzidx: tuple[str, ...], low_memory: bool, as_json: bool
) -> None:
    """Index and merge the layers of IMAGE, like the first mount would, and report.

    Reads every byte and verifies sizes, digests and diff IDs. With --record, an index already in use by the mount is
    left to the mount to verify.
    """
    began = time.monotonic()
    with open_image(image, replace(options, low_memory=low_memory, lazy=record is not None, gzidx=gzidx)) as opened:
        recorded = _record(record, opened, options.store) if record is not None else None
        report = index_report(opened, time.monotonic() - began)
    click.echo(
        msgspec.json.format(msgspec.json.encode(report)).decode() if as_json else render_index(report, terminal_width())
    )
    if recorded and not as_json:
        click.echo(recorded)


@index.command(short_help="Write the index of a layer in another format.")
@image_options
@click.option("--layer", "number", type=int, required=True, metavar="N", help="Layer to export (0: base, -1: top).")
@click.option("--to-gzidx", type=click.Path(), required=True, metavar="FILE", help="Write to the new FILE.")
@click.argument("image")
def export(image: str, options: Options, number: int, to_gzidx: str) -> None:
    """Write the checkpoints of a gzip layer of IMAGE, for indexed_gzip and other tools.

    \b
    Try:  ocifs index export ./debian:latest --layer 0 --to-gzidx base.gzidx
    """
    from ocifs.export.gzidx import export_gzidx
    from ocifs.export.target import check_new_file

    check_new_file(to_gzidx)
    with open_image(image, replace(options, trust_index=False)) as opened:
        export_gzidx(opened.index_of(number), to_gzidx)


@index.command(short_help="Publish the index of an image.")
@image_options
@click.option(
    "--format",
    "form",
    cls=Option,
    type=click.Choice(["ocifs", "soci", "soci-v2"]),
    default="ocifs",
    show_default=True,
    metavar="FORMAT",
    help="ocifs, soci or soci-v2.",
    details="soci: for the SOCI snapshotter. soci-v2: a converted image that is bound to its index.",
)
@click.option("--tag", metavar="TAG", help="Tag of the converted image (soci-v2).")
@click.option(
    "--min-layer-size",
    type=Size(),
    default=MIN_LAYER_SIZE,
    show_default=True,
    help="Leave out smaller layers (soci).",
)
@_record_option
@click.option("--all-tags", is_flag=True, help="Push for all tags beside IMAGE.")
@click.option(
    "--from",
    "list_file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    cls=Option,
    help="Push for the images in FILE; -: standard input.",
    details="One reference per line; # begins a comment.",
)
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 32),
    default=2,
    show_default=True,
    cls=Option,
    help="Images to index at the same time.",
    details="Each of them fetches and indexes several layers at the same time in any case.",
)
@click.option("--force", is_flag=True, help="Push even if an index is published already.")
@click.option("--json", "as_json", is_flag=True, help="Print an object for each of several images.")
@click.argument("images", metavar="[IMAGE...]", nargs=-1)
def push(
    images: tuple[str, ...],
    options: Options,
    form: "Form",
    tag: str | None,
    min_layer_size: int,
    record: str | None,
    all_tags: bool,
    list_file: Path | None,
    jobs: int,
    force: bool,
    as_json: bool,
) -> int:
    """Index each IMAGE if necessary, and publish the index beside it: in its registry or layout directory.

    The index is an OCI artifact whose subject is the image's manifest; the image itself does not change. A mount of the
    image from the registry by tag then fetches only the data it reads, starting with its hot pack. --format
    soci-v2 instead writes another image with the same layers, whose manifest names the index.

    With several images, --all-tags or --from, push skips images whose index is published, so an interrupted run can be
    repeated. It prints one line for each image. The exit status is 10 if some images failed.

    \b
    Try:  ocifs index push docker://registry.example/app:1
          ocifs index push --all-tags docker://registry.example/app
          ocifs index push --format soci-v2 --tag 1-soci ./app:1
    """
    from ocifs.cli.push_many import listed_images, push_many, tagged_images
    from ocifs.cli.pushing import publish, publish_converted

    if (form == "soci-v2") != (tag is not None):
        raise click.UsageError("--tag is required with --format soci-v2, and only allowed there")
    if tag is not None and not _TAG.fullmatch(tag):
        raise click.UsageError(f"{printable_path(tag)} is not a valid tag")
    if not images and list_file is None:
        raise click.UsageError("missing argument 'IMAGE': name images, or a list of them with --from")
    many = all_tags or list_file is not None or len(images) > 1
    if many and (tag is not None or record is not None):
        raise click.UsageError("--tag and --record are for a single IMAGE")
    # Verified facts from the cache need no blob. Pushing trims windows.
    options = replace(options, trust_index=False, quick=form == "ocifs")
    if many:
        wanted = [*images, *(listed_images(list_file) if list_file else ())]
        if all_tags:
            wanted = [each for image in wanted for each in tagged_images(image, options)]
        unique = list(dict.fromkeys(wanted))
        return push_many(unique, options, form, min_layer_size, jobs=jobs, force=force, as_json=as_json)
    with open_image(images[0], options) as opened:
        if record is not None:
            _record(record, opened, options.store)
        if tag is not None:
            publish_converted(opened, options, tag, min_layer_size)
            return 0
        done = publish(opened, images[0], options, form, min_layer_size)
    name = "soci-v1" if form == "soci" else form
    described = f"{name}  {done.index}  {counted(done.layers or 0, 'layer')}  {human_size(done.size or 0)}"
    click.echo(msgspec.json.encode(done, enc_hook=str).decode() if as_json else described)
    return 0


@index.command(short_help="Fetch the published index of an image.")
@document_options
@click.argument("image")
def pull(image: str, options: Options) -> None:
    """Fetch the published index of IMAGE, and its hot pack, into the cache, for a later mount.

    The mount uses it like any published index: for a tag at once, for a digest with --trust-index.
    """
    from ocifs.blobs.download import finish
    from ocifs.indexes.selection import select_indexes
    from ocifs.layer.verification import fetch_index

    with _place(image, options) as place:
        taken = select_indexes(place, place.layers(), warn, bound=False)
        for each in taken.values():
            if (partial := fetch_index(each.layer_index, lambda size: None)) is not None:
                finish(partial)
        _pull_pack(place, [each.candidate for each in taken.values()])
    if not taken:
        raise NotFoundError(f"{place.resolved.name}: no published index: create one with `ocifs index push`")
    groups: dict[tuple[str, Digest | None], list[Candidate]] = {}
    for offer in [each.candidate for each in taken.values()]:
        groups.setdefault((offer.format, offer.artifact), []).append(offer)
    for offers in groups.values():
        click.echo(_described(offers))


def _pull_pack(place: "LookupContext", taken: "list[Candidate]") -> None:
    """Fetch the hot pack that was published with the indexes, if a mount would."""
    from ocifs.blobs.download import in_file
    from ocifs.mount.options import DEFAULT_HOT_PACK

    pack = next((each.pack for each in taken if each.pack is not None), None)
    if pack is not None and pack.size <= DEFAULT_HOT_PACK:
        try:
            in_file(place.source.open(pack))
        except OcifsError as error:
            warn(f"{place.resolved.name}: its hot pack cannot be fetched: {error}")


@index.command("ls", short_help="List the published indexes of an image.")
@document_options
@json_option
@click.argument("image")
def list_published(image: str, options: Options, as_json: bool) -> None:
    """List the published indexes of IMAGE, in the order in which ocifs selects them.

    Shows format, digest, number of layers and size; `bound` if the manifest commits to the index, so that references by
    digest use it too.
    """
    from ocifs.indexes.selection import find_candidates

    with _place(image, options) as place:
        found = [offers for offers in find_candidates(place, warn) if offers]
    if as_json:
        listed = [offer.to_json() for offers in found for offer in offers]
        click.echo(msgspec.json.format(msgspec.json.encode(listed)).decode())
        return
    for offers in found:
        click.echo(_described(offers))


@index.command(short_help="Remove the published indexes of an image.")
@document_options
@click.argument("image")
def rm(image: str, options: Options) -> None:
    """Remove all indexes published beside IMAGE from its registry or layout directory."""
    from ocifs.indexes.artifact import ARTIFACT_TYPE, list_artifacts
    from ocifs.indexes.soci import TYPES

    with _place(image, options) as place:
        for artifact_type in (ARTIFACT_TYPE, TYPES["soci-v1"]):
            for artifact in list_artifacts(place.source, place.resolved, artifact_type):
                place.source.referrers().detach(place.resolved.descriptor, artifact)
                click.echo(f"removed {artifact.digest}")


def _record(mountpoint: str, image: "Image", store: Store) -> str:
    """Wait until the first reads of a mount are saved in the image's hot pack; return a message."""
    from ocifs.image.hot_pack import UNVERIFIED_PACK, adopt_pack, load_pack
    from ocifs.mount.mountinfo import real_mountpoint
    from ocifs.mount.record import list_mounts

    real = real_mountpoint(mountpoint)
    deadline = time.monotonic() + _RECORD_SECONDS
    while True:
        mount = next((each for each in list_mounts() if real in {each.mountpoint, each.bundle}), None)
        if mount is None or mount.digest != image.digest:
            raise NotFoundError(f"{printable_path(mountpoint)} is not a mount of this image")
        if mount.hot_pack is not None or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    saved = mount.hot_pack
    if saved is None:
        if (found := load_pack(store, image.layers)) is None:
            raise NotFoundError(
                f"{printable_path(mountpoint)} has no recorded reads: start the program in a new mount, without "
                "--hot-pack 0, and wait until it has paused for a few seconds"
            )
        found[1].close()
        return "nothing new was read: the hot pack stays as it is"
    if saved.kind == f"{UNVERIFIED_PACK.name}{UNVERIFIED_PACK.version}":
        adopt_pack(store, image.layers, saved.subject)
    return f"hot pack of {human_size(saved.size)}, {human_size(saved.added)} of it new"


@contextmanager
def _place(image: str, options: Options) -> "Iterator[LookupContext]":
    """Yield the context for looking up the published indexes of an image."""
    from ocifs.indexes.candidate import LookupContext
    from ocifs.sources.resolve import resolve_image

    source, reference = open_source(image, options)
    with ExitStack() as stack:
        stack.callback(source.close)
        resolved = resolve_image(source, reference, options.platform)
        yield LookupContext(source, resolved, options.store, options.limits, stack)


def _described(offers: "list[Candidate]") -> str:
    """Return a line about the indexes in one artifact, or in the layers themselves."""
    where = offers[0].artifact or "in the layers"
    size = f"  {human_size(sum(offer.size or 0 for offer in offers))}" if offers[0].size is not None else ""
    bound = "  bound" if all(offer.bound for offer in offers) else ""
    return f"{offers[0].format}  {where}  {counted(len(offers), 'layer')}{size}{bound}"
