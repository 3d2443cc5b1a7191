"""Handing an opened rootfs to another process: its open files, and the registries with their missing parts.

The command sends a `Handoff` to the daemon, which opens the same rootfs from it. The daemon needs no path, no
configuration file and no access to the directories of the cache.
"""

import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

import msgspec

from ocifs.blobs.download import BLOB
from ocifs.image.hot_pack import OpenedPack, pack_name
from ocifs.image.rootfs import Rootfs
from ocifs.layer.archive_member import ArchiveMember
from ocifs.layer.compressed_archive import ARCHIVE_CACHE
from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.layer import Layer
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.span_cache import SpanCache
from ocifs.layer.verified_mark import is_marked
from ocifs.reader import BlobReader, FileReader, FileSection
from ocifs.sources.assembled import AssembledReader
from ocifs.sources.registry.peer import BlobOrigin
from ocifs.store import Store, StoredFile
from ocifs.store.sparse import is_finished

if TYPE_CHECKING:
    from ocifs.sources.registry.blob import RemoteBlob


class FileRange(msgspec.Struct, frozen=True):
    """A section of an open file, in a form that can be sent to another process."""

    fd: int
    offset: int
    size: int

    @classmethod
    def of(cls, section: FileSection) -> Self:
        """Describe an open section."""
        return cls(section.fd, section.offset, section.size)

    def open(self) -> FileReader:
        """Return a reader of the range."""
        return FileReader(self.fd, self.offset, self.size)


class ArchiveSource(msgspec.Struct, frozen=True):
    """An archive that is compressed as a whole, and the LayerIndex of its stream."""

    index: FileRange
    file: FileRange
    checksum: int
    """The checksum of the LayerIndex."""

    @classmethod
    def of(cls, archive: Layer) -> Self:
        """Describe an opened archive."""
        return cls(FileRange.of(archive.index.file), _range_of(archive.blob), archive.index.checksum)

    def open(self, number: int, cache: SpanCache) -> Layer:
        """Open the stream of the archive; `number` tells it from others in the cache."""
        return Layer(number, open_index(self.index.open(), self.checksum), self.file.open(), cache)


class PackSource(msgspec.Struct, frozen=True):
    """A hot pack: the file that holds it, or where it comes from."""

    file: FileRange
    verified: bool
    """Whether it was made of verified layers."""
    origin: BlobOrigin | None = None
    """The registry that has it; None: the file is complete."""
    head: bytes | None = None
    """sha256 of its head, if it is published."""
    digest: str | None = None
    """The digest of its blob, if it is published."""


class CacheDirectory(msgspec.Struct, frozen=True):
    """The open directory of cache entries, for a process that adds one."""

    fd: int
    max_size: int
    """Bytes above which it evicts others."""

    def open(self) -> Store:
        """Open the store, with a descriptor of its own."""
        return Store.of_entries(os.dup(self.fd), self.max_size)


class Handoff(msgspec.Struct, frozen=True):
    """All that another process needs to open a rootfs. The tuples have one item for each layer, the base first."""

    tree_image: FileRange
    layers: tuple[tuple[FileRange, FileRange], ...]
    """LayerIndex and blob; the blob may be a range of an uncompressed archive, or a table (`directories`)."""
    checksums: tuple[int, ...] = ()
    """The checksum of the LayerIndex, so that both processes use the same index."""
    origins: tuple[BlobOrigin | None, ...] = ()
    """The registry that has the blob; None: the blob is complete."""
    published: tuple[str | None, ...] = ()
    """The published index that an unverified LayerIndex was made from."""
    prefetch: tuple[tuple[tuple[int, int], ...], ...] = ()
    """(first, last) spans to fetch first."""
    archives: tuple[ArchiveSource, ...] = ()
    """The compressed archives that have blobs."""
    in_archive: tuple[int | None, ...] = ()
    """Which of them has the blob; None: the blob is a section of a file."""
    directories: tuple[int | None, ...] = ()
    """Where the layer was extracted to, if the blob is the table of an `AssembledReader`."""
    pack: PackSource | None = None
    cache: CacheDirectory | None = None
    """Where to save hot packs, and to note false indexes; None: nowhere."""
    index_origins: tuple[BlobOrigin | None, ...] = ()
    """The registry that has the missing windows of the LayerIndex; None: it is complete."""
    tails: tuple[bytes | None, ...] = ()
    """sha256 of the sections behind the windows of a published LayerIndex, which other processes may write to."""
    unverified_pack: str | None = None
    """The subject of the hot pack of these layers, as long as they are unverified; None: they are verified."""

    @classmethod
    def of(cls, rootfs: Rootfs, pack: PackSource | None = None, cache: CacheDirectory | None = None) -> Self:
        """Describe an opened rootfs, with its hot pack and the directory for packs."""
        layers = rootfs.served.layers
        members = [layer.blob if isinstance(layer.blob, ArchiveMember) else None for layer in layers]
        archives = {_digest_of(member): member.archive for member in members if member}
        numbers = {digest: number for number, digest in enumerate(archives)}
        return cls(
            FileRange.of(rootfs.tree_image),
            tuple((FileRange.of(layer.index.file), _range_of(layer.blob)) for layer in layers),
            tuple(layer.index.checksum for layer in layers),
            tuple(layer.blob.origin() if isinstance(layer.blob, LazyBlob) else None for layer in layers),
            tuple(layer.verification.published for layer in layers),
            tuple(layer.prefetch for layer in layers),
            tuple(map(ArchiveSource.of, archives.values())),
            tuple(None if member is None else numbers[_digest_of(member)] for member in members),
            directories=tuple(layer.blob.root if isinstance(layer.blob, AssembledReader) else None for layer in layers),
            pack=pack,
            cache=cache,
            index_origins=tuple(
                layer.index.file.origin() if isinstance(layer.index.file, LazyBlob) else None for layer in layers
            ),
            tails=tuple(layer.index.tail for layer in layers),
            unverified_pack=_unverified_pack(layers),
        )

    def open(self, cache: SpanCache) -> Rootfs:
        """Open the rootfs in the process that received this."""
        count = len(self.layers)
        nowhere = (None,) * count
        indexes, parts = ([layer[each] for layer in self.layers] for each in (0, 1))
        pack = [] if self.pack is None else [(self.pack.file, self.pack.origin)]
        files = _reconnect(  # over the same connections
            [
                *zip(indexes, self.index_origins or nowhere, strict=True),
                *zip(parts, self.origins or nowhere, strict=True),
                *pack,
            ]
        )
        spans = SpanCache(ARCHIVE_CACHE)
        archives = [archive.open(number, spans) for number, archive in enumerate(self.archives)]
        in_archive = self.in_archive or nowhere
        blobs: list[BlobReader] = [
            blob if number is None else ArchiveMember(archives[number], part.offset, part.size)
            for blob, part, number in zip(files[count : 2 * count], parts, in_archive, strict=True)
        ]
        blobs = [
            blob if root is None else AssembledReader(part.open(), root)
            for blob, (_, part), root in zip(blobs, self.layers, self.directories or [None] * len(blobs), strict=True)
        ]
        opened = [
            open_index(index, checksum, tail)
            for index, checksum, tail in zip(files[:count], self.checksums, self.tails or nowhere, strict=True)
        ]
        layers = [
            Layer(number, index, blob, cache, None if _was_verified(index) else published)
            for number, (index, blob, published) in enumerate(zip(opened, blobs, self.published, strict=True))
        ]
        for layer, prefetch in zip(layers, self.prefetch, strict=True):
            layer.prefetch = prefetch
        rootfs = Rootfs(StoredFile(self.tree_image.fd, self.tree_image.offset, self.tree_image.size), layers)
        rootfs.served.pack_file = files[2 * count] if pack else None
        return rootfs

    def fds(self) -> set[int]:
        """Return the descriptors to send."""
        archives = {part.fd for archive in self.archives for part in (archive.index, archive.file)}
        hot = {self.pack.file.fd} if self.pack else set()
        layers = {part.fd for layer in self.layers for part in layer}
        return {self.tree_image.fd} | layers | archives | hot | self.directory_fds()

    def directory_fds(self) -> set[int]:
        """Return those that are directories."""
        return {root for root in self.directories if root is not None} | ({self.cache.fd} if self.cache else set())

    def renumbered(self, fds: Mapping[int, int]) -> "Handoff":
        """Return the same with the receiver's descriptors; `fds` maps the sender's to these."""

        def replaced(part: FileRange) -> FileRange:
            return FileRange(fds[part.fd], part.offset, part.size)

        return msgspec.structs.replace(
            self,
            tree_image=replaced(self.tree_image),
            layers=tuple((replaced(index), replaced(blob)) for index, blob in self.layers),
            directories=tuple(root if root is None else fds[root] for root in self.directories),
            archives=tuple(
                ArchiveSource(replaced(archive.index), replaced(archive.file), archive.checksum)
                for archive in self.archives
            ),
            pack=self.pack and msgspec.structs.replace(self.pack, file=replaced(self.pack.file)),
            cache=self.cache and msgspec.structs.replace(self.cache, fd=fds[self.cache.fd]),
        )


def source_of(pack: OpenedPack | None) -> PackSource | None:
    """Describe an image's hot pack."""
    if pack is None:
        return None
    origin = pack.file.origin() if isinstance(pack.file, LazyBlob) else None
    return PackSource(FileRange.of(pack.file), pack.verified, origin, pack.head, pack.digest)


def _unverified_pack(layers: Sequence[Layer]) -> str | None:
    name = pack_name(layers) if layers else None
    return None if name is None or name.is_verified else name.subject


def _range_of(blob: BlobReader) -> FileRange:
    """Return the range of a blob in its file, or in its uncompressed archive."""
    if isinstance(blob, AssembledReader):
        return FileRange.of(blob.table)
    part = _range_of(blob.archive.blob) if isinstance(blob, ArchiveMember) else None
    if part is not None:
        return FileRange(part.fd, blob.offset, blob.size)
    assert isinstance(blob, FileSection)  # noqa: S101 - there is no other
    return FileRange.of(blob)


def _digest_of(member: ArchiveMember) -> str:
    """Return the digest of the archive that has a member."""
    return member.archive.index.summary.blob_digest


def _reconnect(parts: Sequence[tuple[FileRange, BlobOrigin | None]]) -> list[FileReader]:
    """Return the opened parts.

    Those with an origin fetch missing spans from there, and connect at the first one, unless they were finished
    meanwhile.
    """
    origins = [None if origin is None or _is_finished(part, origin) else origin for part, origin in parts]
    known = [origin for origin in origins if origin is not None]
    opened: list[Callable[[], RemoteBlob]] = []
    lock = threading.Lock()

    def open_remote(number: int) -> "RemoteBlob":
        from ocifs.sources.registry.source import open_origins  # and HTTP with it

        with lock:
            if not opened:
                opened.extend(open_origins(known))
        return opened[number]()

    numbers = itertools.count()
    return [
        part.open()
        if origin is None
        else LazyBlob(part.fd, part.size, partial(_same, origin), partial(open_remote, next(numbers)))
        for (part, _), origin in zip(parts, origins, strict=True)
    ]


def _was_verified(index: LayerIndex) -> bool:
    """Return whether a process has verified an index since the hand-over: then it counts as one that was built here."""
    return is_marked(index) and not isinstance(index.file, LazyBlob)


def _is_finished(part: FileRange, origin: BlobOrigin) -> bool:
    return is_finished(part.fd, BLOB, origin.digest, part.size)


def _same(origin: BlobOrigin) -> BlobOrigin:
    return origin
