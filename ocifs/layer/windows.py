"""The windows of a LayerIndex: what decoding a span on its own needs of the tar stream before it, a zstd frame each.

A published index states the digest of each window. So its file may lack them: the first reader that needs a missing
window fetches it with its neighbours, which other spans of the same file will need (`LazyBlob`). A window with a digest
is verified at each use, because other processes may write to a partly cached file. The checksum of its frame detects
damage of others.
"""

import hashlib
from bisect import bisect_right
from contextlib import suppress
from itertools import groupby, pairwise

from ocifs.compression.zstd_frame import unpack
from ocifs.errors import InvalidImageError, OcifsError, ShortageError
from ocifs.layer.index_format import SPAN_DIGEST_SIZE, Summary, unpack_u64
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.pool import Thread, start
from ocifs.reader import FileReader

_WINDOW_MAX = 1 << 15
_STORED_MAX = _WINDOW_MAX + (4 << 10)
"""Bytes of a window as stored: zstd adds less than 1 KiB to bytes that it cannot compress."""
_GROUP = 128 << 10
"""Bytes of windows to fetch at once: 10 milliseconds at 100 Mbit/s, less than a round trip."""


class Windows:
    """The windows in the data section of an index file, one for each span."""

    def __init__(self, file: FileReader, summary: Summary) -> None:
        self._file = file
        self._layer = summary.blob_digest
        self._offsets = unpack_u64(summary.windows)
        self._digests = summary.window_digests
        self._groups: WindowGroups | None = None

    @property
    def count(self) -> int:
        """Number of windows; 0 if no span needs one."""
        return max(len(self._offsets) - 1, 0)

    @property
    def are_verifiable(self) -> bool:
        """Whether each has a digest."""
        return len(self._digests) == self.count * SPAN_DIGEST_SIZE

    @property
    def groups(self) -> "WindowGroups":
        """The parts in which they are fetched."""
        if self._groups is None:
            self._groups = WindowGroups(self, f"the index of layer {self._layer}")
        return self._groups

    def stored_range(self, span: int) -> tuple[int, int]:
        """Return (offset, size) of a window in the file."""
        return self._offsets[span], self._offsets[span + 1] - self._offsets[span]

    def has_digest(self, span: int, stored: bytes) -> bool:
        """Whether the bytes of a window have its digest."""
        digest = self._digests[span * SPAN_DIGEST_SIZE : (span + 1) * SPAN_DIGEST_SIZE]
        return hashlib.sha256(stored).digest() == digest

    def window(self, span: int) -> bytes:
        """Return the window of a span, which may be empty.

        Raises:
            InvalidImageError: The file, or the registry, has other bytes.
            NotFoundError, RegistryError: The window is missing, and cannot be fetched.
        """
        if not self._offsets:
            return b""
        offset, size = self.stored_range(span)
        if not size:
            return b""
        stored = self._file.pread(size, offset)
        if self._digests and not self.has_digest(span, stored):
            if not isinstance(self._file, LazyBlob):
                raise self._damaged(span, "it has another digest")
            group = self.groups.group_of(span)
            start = self.groups.stored_range(group)[0]
            stored = self._file.span(self.groups, group)[offset - start : offset - start + size]
        try:
            return unpack(stored, _WINDOW_MAX)
        except InvalidImageError as error:
            raise self._damaged(span, str(error)) from None

    def fetch(self, span: int) -> Thread | None:
        """Start to fetch the window of a span, for which `window` then waits; return None if it is not missing."""
        if not isinstance(self._file, LazyBlob) or self._file.is_complete or not self._offsets:
            return None
        if not self.stored_range(span)[1] or self._file.has(self.groups, self.groups.group_of(span)):
            return None
        with suppress(ShortageError):
            return start(lambda: self._fetch(span))
        return None

    def _fetch(self, span: int) -> None:
        with suppress(OcifsError, OSError):  # the reader of the window gets the same error, or succeeds
            self.window(span)

    def _damaged(self, span: int, why: str) -> InvalidImageError:
        return InvalidImageError(f"layer {self._layer}: window of span {span}: {why}: the cache was changed or damaged")

    def agree(self, count: int, data_size: int) -> bool:
        """Whether no window leaves a data section of `data_size` bytes, for `count` checkpoints."""
        return (
            len(self._offsets) in (0, count)
            and len(self._digests) in (0, self.count * SPAN_DIGEST_SIZE)
            and all(0 <= end - begin <= _STORED_MAX for begin, end in pairwise(self._offsets))
            and (not self._offsets or self._offsets[-1] <= data_size)
        )


class WindowGroups:
    """Neighbouring windows that are fetched together, as the `Spans` of an index file."""

    def __init__(self, windows: Windows, name: str) -> None:
        self.name = name
        self._windows = windows
        groups = groupby(range(windows.count), lambda span: windows.stored_range(span)[0] // _GROUP)
        self._firsts = [*(next(spans) for _, spans in groups), windows.count]

    @property
    def span_count(self) -> int:
        """Number of groups."""
        return len(self._firsts) - 1

    def group_of(self, span: int) -> int:
        """Return the group with the window of a span."""
        return bisect_right(self._firsts, span) - 1

    def stored_range(self, group: int) -> tuple[int, int]:
        """Return (offset, size) of a group in the file."""
        begin = self._windows.stored_range(self._firsts[group])[0]
        return begin, sum(self._windows.stored_range(self._firsts[group + 1] - 1)) - begin

    def verified(self, group: int, stored: bytes) -> bytes | None:
        """Return `stored` if each window in it has its digest, else None."""
        begin = self.stored_range(group)[0]
        for span in range(self._firsts[group], self._firsts[group + 1]):
            offset, size = self._windows.stored_range(span)
            if size and not self._windows.has_digest(span, stored[offset - begin : offset - begin + size]):
                return None
        return stored
