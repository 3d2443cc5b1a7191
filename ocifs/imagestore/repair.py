"""Repair a store: read each image from its source again, and write all its records and files."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from ocifs.errors import OcifsError, StoreError
from ocifs.imagestore.checking import damage_of_tar_split
from ocifs.imagestore.directory import StoreDirectory
from ocifs.imagestore.members import Member, open_members, records_of, write_members
from ocifs.imagestore.records import ImageOrigin, ImageRecord, Records
from ocifs.imagestore.tar_split import is_complete, write_tar_split
from ocifs.imagestore.tree import StoreTree
from ocifs.options import Options

T = TypeVar("T")


class Repair(NamedTuple):
    """What to write."""

    members: list[Member]
    records: Records
    tar_splits: frozenset[str]
    """Layers whose tar-split is damaged."""

    def write(self, at: StoreDirectory, tree: StoreTree) -> None:
        """Write it, and remove files that no image uses. Raises StoreError, and as `write_tar_split`."""
        for damaged in self.tar_splits:
            at.remove_tar_split(damaged)
        write_members(at, self.members, tree, tar_split=False)
        for member in self.members:
            for identity, layer in zip(member.stack.ids, member.stack.image.layers, strict=True):
                if identity in self.tar_splits and is_complete(layer):
                    write_tar_split(at, identity, layer, tree)
        at.write(self.records)
        at.remove_unused(self.records)


def plan_repair(
    at: StoreDirectory, options: Options, closing: ExitStack, failed: Callable[[ImageOrigin, OcifsError], None]
) -> Repair:
    """Open the images of a damaged store; `failed` as for `open_members`: their records stay as they are.

    Raises StoreError if our own record is damaged.
    """
    own = at.read_own()
    images = {each.id: each for each in _readable(at.read_images)}
    for origin in own.images:
        images.setdefault(origin.id, ImageRecord(id=origin.id, digest=origin.digest, names=origin.names))
    before = Records(_with_own_names(images), _readable(at.read_layers), own)
    members = open_members(before, options, closing, failed)
    records = records_of(members, before)
    damaged = frozenset(each.id for each in records.layers if damage_of_tar_split(at, each.id) is not None)
    return Repair(members, records, damaged)


def _readable(read: Callable[[], tuple[T, ...]]) -> tuple[T, ...]:
    """Return records; none if they are damaged."""
    try:
        return read()
    except StoreError:
        return ()


def _with_own_names(images: dict[str, ImageRecord]) -> tuple[ImageRecord, ...]:
    """Return the images; of two with the same name, the later one keeps it."""
    owner = {name: image.id for image in images.values() for name in image.names}
    return tuple(
        replace(image, names=tuple(name for name in image.names if owner[name] == image.id))
        for image in images.values()
    )
