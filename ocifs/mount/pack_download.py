"""The download of a published hot pack, in one request; it continues where an earlier one ended.

The bytes go to a sparse file of the cache, to which other mounts may write at the same time. The head is written only
once it is complete and has the digest that the artifact states, and then every frame is verified by the digests in the
head. A process that opens the file can therefore tell which frames are there. The download stops once the pack is
useless.
"""

import contextlib
import threading
from collections.abc import Iterator

from ocifs.blobs.download import finish
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.hotpack.arriving import ArrivingFile
from ocifs.hotpack.format import frames_start, with_head
from ocifs.hotpack.pack import HotPack
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.verification import digest_blob
from ocifs.reader import FileReader
from ocifs.spec.digest import Digest


class PackDownload:
    """The download of the pack in `blob`, whose head has the sha256 `head`."""

    def __init__(self, blob: LazyBlob, head: bytes) -> None:
        self.file = ArrivingFile(blob.fd, blob.size)
        self.is_complete = False
        """Whether all of it is in the cache, and has the digest of the blob."""
        self._blob = blob
        self._whole = FileReader(blob.fd, 0, blob.size)
        self._head = head
        self._ended = threading.Event()
        with contextlib.suppress(InvalidImageError, OSError):
            self.file.found(frames_start(self._whole, head))

    @property
    def has_head(self) -> bool:
        """Whether the head has arrived, so that no reader waits for it."""
        return self.file.present > 0

    def run(self, pack: HotPack, *, fetch: bool = True) -> None:
        """Let the pack that reads `file` have what is there already, and `fetch` the rest."""
        try:
            if (
                self._is_worthwhile(pack)
                and fetch
                and (self.file.present == self.file.size or self.file.receive(lambda: self._missing(pack)))
            ):
                self.is_complete = self._finish()
        finally:
            self.file.end()
            pack.table()  # a reader waits no more for a head that has not arrived
            self._ended.set()

    def wait(self) -> None:
        """Wait until `run` has ended."""
        self._ended.wait()

    def is_moving(self) -> bool:
        """Whether the pack is arriving, and needs the link."""
        return not self._ended.is_set() and self.file.is_moving()

    def _is_worthwhile(self, pack: HotPack) -> bool:
        """Let readers have what is in the file already; return False if that shows that the pack is of no use."""
        if self.file.is_complete():
            self.file.found(self.file.size)
            return True
        if not self.has_head:
            return True
        if (table := pack.table()) is None:
            return False
        with contextlib.suppress(OSError):
            for frame in table.frames:
                if frame.decode(self._whole.pread(frame.stored, frame.offset)) is None:
                    break
                self.file.found(frame.offset + frame.stored)
        return True

    def _missing(self, pack: HotPack) -> Iterator[bytes]:
        """Yield what is missing, as long as the pack is usable. Raises OcifsError."""
        with contextlib.closing(self._blob.stream(self.file.present)) as stream:
            for piece in stream if self.file.present else with_head(stream, self._head):
                yield piece
                if pack.table() is None or pack.fault is not None:
                    raise OcifsError(str(pack.fault))

    def _finish(self) -> bool:
        """If the file has the digest of the blob, mark it as complete; return whether it is complete."""
        if self.file.is_complete():
            return True
        digest = Digest(self._blob.origin().digest)
        with contextlib.suppress(OcifsError, OSError):
            if digest_blob(self._whole, digest, lambda size: None) == digest:
                finish(self._blob)
                return True
        return False
