"""The hot pack of an image in the cache: its name.

A pack made of verified layers has the name of their chain, like a tree image. One made of unverified layers has a name
of its own, like theirs.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ocifs.hotpack.format import Stream
from ocifs.image.chain import chain_of, unverified_name
from ocifs.layer.index import ChunkedIndex
from ocifs.layer.layer import Layer
from ocifs.reader import FileSection
from ocifs.spec.digest import Digest
from ocifs.store import Kind, Store, StoredFile

PACK = Kind("pack", 1, checked=False)
"""A pack made of verified layers."""
UNVERIFIED_PACK = Kind("ppack", 1, checked=False)


class PackName(NamedTuple):
    """The name of a pack as an entry of the store."""

    kind: Kind
    subject: str

    @property
    def is_verified(self) -> bool:
        """Whether such a pack is made of verified layers."""
        return self.kind == PACK


def pack_name(layers: Sequence[Layer]) -> PackName:
    """Return the name of the pack of one or more layers, as far as they are verified now."""
    if not all(layer.verification.is_verified for layer in layers):
        return PackName(UNVERIFIED_PACK, unverified_name(layers))
    if any(isinstance(layer.index, ChunkedIndex) for layer in layers):  # their streams are not those of the chain
        return PackName(PACK, Digest.of(" ".join(layer.index.stream for layer in layers).encode()))
    return PackName(PACK, str(chain_of(layers)))


class OpenedPack(NamedTuple):
    """An open file with a pack, which is not checked yet."""

    file: FileSection
    """A `LazyBlob`, if the registry has to be asked for it."""
    verified: bool
    """Whether it is made of verified layers."""
    head: bytes | None = None
    """sha256 of its head, if it is published."""


def load_pack(store: Store, layers: Sequence[Layer]) -> tuple[PackName, StoredFile] | None:
    """Return the pack of one or more layers in the cache, a verified one if possible; its content is not checked."""
    for name in dict.fromkeys([PackName(PACK, str(chain_of(layers))), pack_name(layers)]):
        if (file := store.load(*name)) is not None:
            return name, file
    return None


def streams_of(layers: Sequence[Layer]) -> list[Stream]:
    """Return the streams of layers."""
    return [Stream(layer.index.stream, layer.size) for layer in layers]
