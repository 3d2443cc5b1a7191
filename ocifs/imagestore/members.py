"""The opened images of a store, from which a command makes the store's tree and records."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from msgspec.structs import replace

from ocifs.errors import OcifsError
from ocifs.image.opening import Image
from ocifs.imagestore.directory import StoreDirectory
from ocifs.imagestore.images import NewImage, described, reopened, stacked
from ocifs.imagestore.records import ImageOrigin, ImageRecord, Records
from ocifs.imagestore.tar_split import is_complete, write_tar_split
from ocifs.imagestore.tree import StackedImage, StoreTree
from ocifs.options import Options


class Member(NamedTuple):
    """An opened image of a store."""

    new: NewImage
    stack: StackedImage


def open_members(
    records: Records, options: Options, closing: ExitStack, failed: Callable[[ImageOrigin, OcifsError], None]
) -> list[Member]:
    """Open the images of a store again; call `failed` for each that cannot be opened, and leave it out."""
    members = []
    for origin in records.own.images:
        image = next((each for each in records.images if each.id == origin.id), None)
        if image is None:
            continue
        try:
            members.append(_reopened(records, origin, image, options, closing))
        except OcifsError as error:
            failed(origin, error)
    return members


def _reopened(
    records: Records, origin: ImageOrigin, record: ImageRecord, options: Options, closing: ExitStack
) -> Member:
    """Open an image again. What its records call verified must be verified: podman relies on it."""
    is_verified = all(layer.is_verified for layer in records.chain(record.layer))
    image = closing.enter_context(reopened(origin, options))
    if is_verified and not all(layer.verification.is_verified for layer in image.layers):
        image = closing.enter_context(reopened(origin, replace(options, lazy=False)))
    return member_of(image, (), records)


def member_of(image: Image, names: Sequence[str], records: Records) -> Member:
    """Return an opened image as a member of a store with `records`, called `names` in addition to its names there.

    If it is there already, its layers keep their IDs, even if their indexes have been verified since: other images may
    be built on them.

    Raises:
        UnsupportedError, InvalidImageError: As `described`.
    """
    stack = stacked(image)
    new = described(stack, tuple(names))
    known = next((each for each in records.images if each.id == new.record.id), None)
    if known is None:
        return Member(new, stack)
    chain = tuple(layer.id for layer in records.chain(known.layer))
    if len(chain) == len(stack.ids):
        stack = StackedImage(image, chain)
    return Member(described(stack, tuple(dict.fromkeys((*known.names, *names)))), stack)


def records_of(members: Sequence[Member], before: Records) -> Records:
    """Return the records of a store that has these members besides the images that it has already.

    A name means one image: the last one that has it keeps it.
    """
    images = {each.id: each for each in before.images}
    origins = {each.id: each for each in before.own.images}
    layers = {each.id: each for each in before.layers}
    for member in members:
        record = member.new.record
        taken = set(record.names)
        for other in list(images.values()):
            images[other.id] = replace(other, names=tuple(name for name in other.names if name not in taken))
        images[record.id] = record
        origins[record.id] = member.new.origin
        layers |= {layer.id: layer for layer in member.new.layers}
    named = tuple(replace(each, names=images[each.id].names) for each in origins.values() if each.id in images)
    own = replace(before.own, images=named)
    return Records(tuple(images.values()), tuple(layers.values()), own).pruned()


def write_members(directory: StoreDirectory, members: Iterable[Member], tree: StoreTree, *, tar_split: bool) -> None:
    """Write the files of images: documents, and with `tar_split` the missing tar-splits of complete layers.

    Raises as `write_tar_split`.
    """
    for member in members:
        directory.write_data(member.new.record.id, member.new.files)
        for identity, layer in zip(member.stack.ids, member.stack.image.layers, strict=True):
            if tar_split and is_complete(layer) and not directory.has_tar_split(identity):
                write_tar_split(directory, identity, layer, tree)
