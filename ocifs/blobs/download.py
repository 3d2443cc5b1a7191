"""Downloads: a blob on its way from a registry into the store, which can be read meanwhile.

A `Download` is a `ReaderAt`: a read of bytes that have not arrived waits for them. So indexing a layer, which reads its
blob from front to end, overlaps with the download. An entry of the store is made only of bytes that have the digest. If
several processes want the same blob, one downloads it and the others wait; if that one ends early, the next resumes
where it stopped, even days later.

The digest verifies a blob only when all of it has arrived. If other bytes arrive, the blob is fetched again: first
without what an earlier download left, then from the next endpoint. Every reader of the wrong bytes gets an error, and
reads again.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from ocifs.errors import InvalidImageError, OcifsError, ShortageError, StoreError, UnsupportedError
from ocifs.layer.archive_member import ArchiveMember
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.pool import start
from ocifs.reader import BlobReader, FileReader, FileSection, StoppableReader
from ocifs.sources.assembled import AssembledReader
from ocifs.spec.digest import Digest
from ocifs.store import Kind, Store, StoredFile, Writer
from ocifs.store.entry import sized
from ocifs.store.sparse import finish_sparse
from ocifs.store.sparse import is_finished as is_finished_sparse

BLOB = Kind("blob", 1, checked=False, begun="begun")
PART = Kind("part", 1, checked=False)
"""The bytes of a blob that were fetched so far (`ocifs.layer.lazy_blob`)."""

MAX_IN_MEMORY = 64 << 20
"""Bytes of a blob that may move into memory when the disk of the cache is full: documents, and small layers."""
_PIECE = 1 << 20
_LOOK = 1.0
"""Seconds after which a reader looks whether the download still runs."""

T = TypeVar("T")

Progress = Callable[[Digest, int, int], None]
"""Receives (blob, bytes present, bytes in total)."""


def ignored(blob: Digest, done: int, total: int) -> None:
    """Report no progress."""


class BlobStream(Protocol):
    """A remote blob that can be downloaded from any offset to its end."""

    digest: Digest
    size: int

    def stream(self, start: int = 0) -> Iterator[bytes]:
        """Yield all bytes from `start` on, in pieces."""
        ...

    def distrust(self) -> bool:
        """Leave out the endpoint that sent wrong bytes; return False if there is no other."""
        ...


class Download:
    """A blob on its way into the store. Safe to read from several threads."""

    def __init__(
        self, remote: BlobStream, store: Store, slots: threading.Semaphore, progress: Progress = ignored
    ) -> None:
        self.size = remote.size
        self._remote = remote
        self._store = store
        self._slots = slots
        self._progress = progress
        self._changed = threading.Condition()
        self._out: Writer | None = None
        self._available = 0
        self._wrong = False
        self._file: StoredFile | None = None
        self._error: Exception | None = None
        self._thread = start(self._run)

    def pread(self, size: int, offset: int) -> bytes:
        """Wait for up to `size` bytes at `offset` and return them; a read of the whole blob waits until it is verified.

        Raises the error that ended the download, and InvalidImageError once wrong bytes have been discarded.
        """
        end = min(offset + size, self.size)
        if end - offset == self.size:
            return self.in_file().pread(size, offset)
        with self._changed:
            while self._file is None or self._wrong:
                self._check()
                if self._wrong:  # earlier reads may have returned bytes of another blob
                    raise InvalidImageError(f"the registry first sent wrong bytes for blob {self._remote.digest}")
                if self._out is not None and self._available >= end:
                    # Under the lock, because a full disk makes the writer close its file.
                    return FileReader(self._out.fd, 0, self._available).pread(size, offset)
                self._wait()
        return self._file.pread(size, offset)

    def in_file(self) -> StoredFile:
        """Wait until the blob is complete and verified; return its file. Raises the error that ended the download."""
        with self._changed:
            while self._file is None:
                self._check()
                self._wait()
            return self._file

    def began_wrong(self) -> bool:
        """Wait until the blob is complete; return whether wrong bytes arrived first. Raises as `in_file`."""
        self.in_file()
        return self._wrong

    def stop(self) -> None:
        """End the download unless it is complete; readers that wait get an error."""
        self._fail(OcifsError("interrupted"))

    def close(self) -> None:
        """Stop, and close the file."""
        self.stop()
        with self._changed:
            if self._file is not None:
                self._file.close()

    def _run(self) -> None:
        try:
            file = self._stored()
        except OSError as error:
            self._fail(OcifsError(f"blob {self._remote.digest} cannot be cached: {error.strerror}"))
        except Exception as error:  # noqa: BLE001 - a waiting reader must see a defect too
            self._fail(error)
        else:
            with self._changed:
                if self._error is None:
                    self._file = file
                else:
                    file.close()
                self._changed.notify_all()

    def _stored(self) -> StoredFile:
        with self._slots:
            file = self._store.get(BLOB, self._remote.digest, self._fetch, size=self.size, check=self._check)
        if file.size != self.size:
            file.close()
            raise InvalidImageError(f"blob {self._remote.digest} has {file.size} bytes, not {self.size}")
        return file

    def _fail(self, error: Exception) -> None:
        with self._changed:
            if self._file is None and self._error is None:
                self._error = error
            self._changed.notify_all()

    def _check(self) -> None:
        """Raise the error that has ended the download."""
        if self._error is not None:
            raise self._error

    def _wait(self) -> None:
        """Wait for a change. The thread may end without one, if there is no memory even for the error."""
        has_ended = self._thread.has_ended
        if not self._changed.wait(_LOOK) and has_ended and self._file is None and self._error is None:
            self._error = ShortageError(f"blob {self._remote.digest}: its download has ended: out of memory: try again")

    def _fetch(self, out: Writer) -> None:
        """Write the blob, resuming an earlier download, and verify it."""
        out.for_memory = self._store.directory is None or self.size <= MAX_IN_MEMORY
        out.cut(self.size)  # an earlier process may have died while it wrote the footer
        try:
            resumed = out.size > 0
            while (found := self._write(out)) != self._remote.digest.hex:
                with self._changed:
                    self._out, self._available, self._wrong = None, 0, True
                    out.cut(0)
                if not resumed and not self._remote.distrust():
                    name = f"{self._remote.digest.algorithm}:{found}"
                    raise InvalidImageError(
                        f"the registry sent wrong bytes for blob {self._remote.digest}: they have the digest {name}"
                    )
                resumed = False
        finally:
            with self._changed:  # the store now owns the file
                self._out = None

    def _write(self, out: Writer) -> str:
        """Download the missing bytes; return the digest of the whole blob, as hexadecimal digits."""
        hasher = self._remote.digest.hasher()
        for offset in range(0, out.size, _PIECE):
            try:
                piece = FileReader(out.fd, 0, out.size).pread(_PIECE, offset)
            except OSError:  # treat an unreadable disk as wrong bytes
                return ""
            self._arrived(out, offset + len(piece))
            hasher.update(piece)
        for piece in self._remote.stream(out.size):
            with self._changed:
                try:
                    out.write(piece)
                except StoreError:
                    out.cut(0)  # the disk may be full: free the space of the partial blob
                    raise StoreError(
                        f"the cache has no room for blob {self._remote.digest} of {self.size} bytes: free some, "
                        "or choose another directory with --cache-dir"
                    ) from None
                self._arrived(out, out.size)
            hasher.update(piece)
        return hasher.hexdigest()

    def _arrived(self, out: Writer, size: int) -> None:
        with self._changed:
            self._check()
            self._out, self._available = out, size
            self._changed.notify_all()
        self._progress(self._remote.digest, size, self.size)


Blob = BlobReader | Download
"""A blob that is complete on this machine, or downloading."""


def in_file(blob: Blob) -> BlobReader:
    """Return a blob as it is on this machine, once all of it is there. Raises the error that ended its download."""
    return blob.in_file() if isinstance(blob, Download) else blob


def finish(blob: LazyBlob) -> None:
    """Mark a partly cached blob as complete: all of it is there, and verified. Raises OSError."""
    finish_sparse(blob.fd, BLOB, blob.origin().digest, blob.size)
    blob.is_complete = True


def is_finished(blob: LazyBlob) -> bool:
    """Return whether this process or another one that shares the file has finished the blob. Raises OSError."""
    blob.is_complete = blob.is_complete or is_finished_sparse(blob.fd, BLOB, blob.origin().digest, blob.size)
    return blob.is_complete


def discard(store: Store, digest: str, size: int) -> None:
    """Remove a blob from the store, or what was fetched of it."""
    store.remove(BLOB, digest)
    store.remove(PART, sized(digest, size))


def stop_downloads(blobs: Iterable[Blob]) -> None:
    """End the downloads among some blobs."""
    for blob in blobs:
        if isinstance(blob, Download):
            blob.stop()


def stoppable(blob: Blob, stop: threading.Event) -> Blob:
    """Return `blob` such that reads of it raise OcifsError once `stop` is set; a download has `Download.stop`."""
    match blob:
        case ArchiveMember() | AssembledReader():
            return blob.stopped_by(stop)
        case FileSection():
            return StoppableReader(blob, stop)
        case _:
            return blob


def with_verified_bytes(blob: Blob, use: Callable[[Blob], T]) -> T:
    """Return `use(blob)`; if that fails because the download began with wrong bytes, use the verified file instead."""
    try:
        return use(blob)
    except (InvalidImageError, UnsupportedError):
        if not isinstance(blob, Download) or not blob.began_wrong():
            raise
        return use(blob.in_file())
