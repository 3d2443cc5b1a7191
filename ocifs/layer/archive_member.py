"""A member of an archive that is compressed as a whole: a section of the archive's uncompressed stream.

It is not a section of a file, so it cannot be handed to a decoder in another process; another process gets the archive
and its index instead. It does not know how the archive was indexed.
"""

import threading

from ocifs.errors import OcifsError
from ocifs.layer.layer import Layer


class ArchiveMember:
    """`size` bytes from `offset` of the uncompressed stream of an archive. Safe to use from several threads."""

    def __init__(self, archive: Layer, offset: int, size: int, stop: threading.Event | None = None) -> None:
        self.archive = archive
        """The stream of the whole archive."""
        self.offset = offset
        self.size = size
        self._stop = stop

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`.

        Raises:
            InvalidImageError: The archive has changed since it was indexed.
            OcifsError: `stop` of `stopped_by` is set.
        """
        if self._stop is not None and self._stop.is_set():
            raise OcifsError("interrupted")
        missing = min(size, self.size - offset)
        return self.archive.pread(missing, self.offset + offset) if missing > 0 else b""

    def will_need(self, size: int, offset: int) -> None:
        """Announce a read of `size` bytes at `offset` of the member."""
        end = min(self.offset + offset + max(size, 1), self.archive.size)
        if self.offset + offset < end:
            for span in range(self.archive.span_at(self.offset + offset), self.archive.span_at(end - 1) + 1):
                self.archive.will_need(span)

    def stopped_by(self, stop: threading.Event) -> "ArchiveMember":
        """Return the same, whose reads raise OcifsError once `stop` is set."""
        return ArchiveMember(self.archive, self.offset, self.size, stop)
