"""The hot pack of an image in the cache: its name.

A pack made from verified layers has the name of their chain, like a tree image. One made from unverified layers has
another name, like a tree image of such layers.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from ocifs.errors import InvalidImageError, OcifsError
from ocifs.hotpack.format import Block, PackTable, Stream, encode_head, read_table
from ocifs.hotpack.verification import verify_pack
from ocifs.image.chain import chain_of, unverified_name
from ocifs.layer.index import ChunkedIndex
from ocifs.layer.layer import Layer
from ocifs.reader import FileSection, ReaderAt
from ocifs.spec.digest import DiffID, Digest, chain_id
from ocifs.store import Kind, Store, StoredFile, Writer

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
    """Return the name of the pack of one or more layers, which depends on whether they are verified now."""
    if not all(layer.verification.is_verified for layer in layers):
        return PackName(UNVERIFIED_PACK, str(unverified_name(layers)))
    # Streams of chunks are not the tar streams of the chain. The first word keeps the name apart from a chain ID, which
    # is the digest of two digests or of a tar.
    if any(isinstance(layer.index, ChunkedIndex) for layer in layers):
        words = ["streams", *(layer.index.stream for layer in layers)]
        return PackName(PACK, str(Digest.of(" ".join(words).encode())))
    return PackName(PACK, str(chain_of(layers)))


class OpenedPack(NamedTuple):
    """An open file with a pack, which is not checked yet."""

    file: FileSection
    """A `LazyBlob`, if it has to be fetched from the registry."""
    verified: bool
    """Whether it is made of verified layers."""
    head: bytes | None = None
    """sha256 of its head, if it is published."""
    digest: str | None = None
    """The digest of the blob, if it is published."""


def published_name(digest: Digest) -> str:
    """Return the name of a published pack in the memory of what is false (`ocifs.indexes.refuted`)."""
    return f"hot-pack {digest}"


def load_pack(store: Store, layers: Sequence[Layer]) -> tuple[PackName, StoredFile] | None:
    """Return a usable pack of some layers in the cache, a verified one if possible; its frames are not checked."""
    if not layers:
        return None
    for name in dict.fromkeys([PackName(PACK, str(chain_of(layers))), pack_name(layers)]):
        if (file := store.load(*name)) is not None:
            with contextlib.suppress(OcifsError, OSError):
                read_table(file, streams_of(layers), sys.maxsize)
                return name, file
            file.close()
    return None


def streams_of(layers: Sequence[Layer]) -> list[Stream]:
    """Return the streams of layers."""
    return [Stream(layer.index.stream, layer.size) for layer in layers]


def verified_table(store: Store, layers: Sequence[Layer]) -> tuple[StoredFile, PackTable] | None:
    """Return the pack in the cache that was made of verified layers; the caller closes the file."""
    if (found := load_pack(store, layers)) is None:
        return None
    name, file = found
    if name.is_verified:
        with contextlib.suppress(OcifsError, OSError):
            return file, read_table(file, streams_of(layers), sys.maxsize)
    file.close()
    return None


def has_verified_pack(store: Store, diff_ids: Sequence[DiffID]) -> bool:
    """Whether the cache has a pack of the layers with these diff IDs, which are sha256."""
    return bool(diff_ids) and store.has(PACK, chain_id(diff_ids))


def save_verified(
    store: Store, layers: Sequence[Layer], file: ReaderAt, table: PackTable, recordings: tuple[tuple[int, int], ...]
) -> None:
    """Save a pack that was compared with its layers, which are verified, unless they have a usable one.

    Other mounts may write to `file`, so each frame is verified again. `recordings` replace what the pack states.

    Raises:
        InvalidImageError: A frame is damaged.
        StoreError: It cannot be written.
    """
    name = pack_name(layers)
    if not name.is_verified:
        return
    if (found := verified_table(store, layers)) is not None:
        found[0].close()
        return

    def write(out: Writer) -> None:
        out.write(encode_head(table.streams, [(frame.blocks, frame.stored) for frame in table.frames], recordings))
        for number, frame in enumerate(table.frames):
            stored = file.pread(frame.stored, frame.offset)
            if frame.decode(stored) is None:
                raise InvalidImageError(f"hot pack: frame {number} is damaged")
            out.write(stored)

    store.get(*name, write, anew=store.has(*name)).close()  # only a damaged one is replaced


def save_published(store: Store, layers: Sequence[Layer], file: ReaderAt, table: PackTable) -> None:
    """Save a published pack as `save_verified` does, as one recording of now, whatever it states."""
    count = sum(len(frame.blocks) for frame in table.frames)
    save_verified(store, layers, file, table, ((int(time.time()), count),))


def adopt_pack(
    store: Store,
    layers: Sequence[Layer],
    subject: str,
    pause: Callable[[int], None] = lambda size: None,
    verified: Collection[Block] = frozenset(),
) -> bool:
    """Compare the unverified pack `subject` with its layers, then save it as that of verified layers, and remove it.

    The blocks `verified` were compared before. Return whether there is such a pack.

    Raises:
        InvalidImageError: It has bytes that the layers do not have, or is damaged.
        StoreError: It cannot be saved.
    """
    if (file := store.load(UNVERIFIED_PACK, subject)) is None:
        return False
    try:
        table = read_table(file, streams_of(layers), sys.maxsize)
        verify_pack(table, layers, pause, verified)
        save_verified(store, layers, file, table, table.recordings)
    finally:
        file.close()
    store.remove(UNVERIFIED_PACK, subject)
    return True
