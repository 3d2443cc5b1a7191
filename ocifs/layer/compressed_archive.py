"""Archives of images that are compressed as a whole: read in place through a LayerIndex of the archive itself.

The archive is indexed like a layer, in one pass, and its members are sections of the uncompressed stream. Each span is
verified by its digest before it is decoded. The store has the index under the sha256 of the compressed file, and that
digest under the identity of the file: device, inode, size and times. A file that changes afterwards can thus cause an
error, but never other bytes. It does not know what the members mean.
"""

import hashlib
import os
from collections.abc import Iterable

from ocifs.errors import InvalidImageError, OcifsError, UnsupportedError
from ocifs.layer.archive_member import ArchiveMember
from ocifs.layer.build import IndexingProgress, LayerBlob, open_layer_index
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import Limits
from ocifs.reader import FileReader
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Kind, Store, Writer
from ocifs.toc import Entry

KIND = Kind("archive", 1)
"""The digest of a compressed archive, under the identity of its file."""

ARCHIVE_CACHE = 32 << 20
"""Bytes of decoded spans in memory: readers of several layers, two of each, follow each other through the archive."""
_CHUNK = 1 << 20


class CompressedArchive:
    """The members of an archive; implements `ocifs.sources.archive.TarContent`."""

    def __init__(self, archive: Layer, file: FileReader) -> None:
        self._archive = archive
        self._file = file

    def entries(self) -> Iterable[Entry]:
        """Return the headers of the members, in order."""
        return self._archive.index.entries()

    def section(self, offset: int, size: int) -> ArchiveMember:
        """Return a part of the stream."""
        return ArchiveMember(self._archive, offset, size)

    def close(self) -> None:
        """Close the archive and its index."""
        os.close(self._archive.index.file.fd)
        os.close(self._file.fd)


def open_compressed(
    file: FileReader,
    name: str,
    store: Store,
    limits: Limits,
    progress: IndexingProgress,
    *,
    low_memory: bool = False,
) -> CompressedArchive:
    """Index the archive in `file`, a whole file, unless the store has its index; then the result owns the descriptor.

    Raises:
        InvalidImageError: It is damaged, is not a tar, or was written to meanwhile.
        LimitError: It has more members, or inflates further, than the limits allow.
    """
    index = open_layer_index(
        LayerBlob(digest := _digest(file, store), DiffID(digest), file, archive=name),
        store,
        limits,
        lambda warning: None,  # of attributes of members, which are not extracted
        progress,
        low_memory=low_memory,
    )
    try:
        if index.summary.entries > limits.members:  # indexed under other limits
            raise limits.passed("members", f"{name} has {index.summary.entries} members")
        if index.size > limits.uncompressed:
            raise limits.passed("uncompressed", f"{name} inflates to {index.size} bytes")
    except OcifsError:
        os.close(index.file.fd)
        raise
    return CompressedArchive(Layer(0, index, file, SpanCache(ARCHIVE_CACHE)), file)


def _digest(file: FileReader, store: Store) -> Digest:
    """Return the sha256 of a file, from the store or computed."""
    status = os.fstat(file.fd)
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    subject = Digest.of(repr(identity).encode())

    def build(out: Writer) -> None:
        hasher = hashlib.sha256()
        for offset in range(0, file.size, _CHUNK):
            hasher.update(file.pread(_CHUNK, offset))
        out.write(f"sha256:{hasher.hexdigest()}".encode())

    for anew in (False, True):
        stored = store.get(KIND, subject, build, anew=anew)
        try:
            return Digest(stored.pread(100, 0).decode("ascii", "replace"))
        except (InvalidImageError, UnsupportedError):
            continue
        finally:
            stored.close()
    raise InvalidImageError("the digest of the archive cannot be stored: run `ocifs cache clear`")
