"""A published LayerIndex of which only the tail is fetched at once; its windows follow when they are needed.

The tail is everything behind the windows: the entries, the table of spans, and the digests of spans and windows. The
artifact states its size and digest. So each part is verified when it arrives, before the whole index is there. If the
artifact does not state them, or the windows take less than another request, the index is fetched whole.
"""

import hashlib
import re
from typing import NamedTuple

from msgspec.structs import replace

from ocifs.blobs.source import Source
from ocifs.errors import InvalidImageError
from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.index_format import SIZES, join_tail
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.reader import FileReader
from ocifs.spec.descriptor import Descriptor

TAIL_DIGEST = "vnd.ocifs.layer-index.tail.digest"
"""sha256 of the tail, in hex."""
TAIL_SIZE = "vnd.ocifs.layer-index.tail.size"
"""Its bytes."""

_MIN_WINDOWS = 256 << 10
"""Bytes of windows that are worth another request: 20 milliseconds at 100 Mbit/s, about a round trip."""
_MAX_TAIL = 64 << 20
"""Bytes of a tail that may be fetched into memory."""
_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Tail(NamedTuple):
    """The tail of an index file: the only span that is fetched at once."""

    name: str
    start: int
    size: int
    digest: bytes

    @property
    def span_count(self) -> int:
        """One."""
        return 1

    def stored_range(self, span: int) -> tuple[int, int]:
        """Return (offset, size) in the file."""
        return self.start, self.size

    def verified(self, span: int, stored: bytes) -> bytes | None:
        """Return `stored` if it is the tail, else None."""
        return stored if hashlib.sha256(stored).digest() == self.digest else None


def published_form(index: LayerIndex) -> tuple[bytes, dict[str, str]]:
    """Return an index with the digests of its windows, and the annotations of its descriptor."""
    data = index.file.pread(index.data_size, 0)
    ranges = map(index.windows.stored_range, range(index.windows.count))
    digests = b"".join(hashlib.sha256(data[offset : offset + size]).digest() for offset, size in ranges)
    tail = join_tail(index.packed_toc(), replace(index.summary, window_digests=digests), len(data))
    return data + tail, {TAIL_SIZE: str(len(tail)), TAIL_DIGEST: hashlib.sha256(tail).hexdigest()}


def tail_of(descriptor: Descriptor) -> Tail | None:
    """Return the tail that the descriptor of an index states; None if the index is to be fetched whole.

    Raises:
        InvalidImageError: The descriptor states an impossible one.
    """
    size, digest = (descriptor.annotations.get(name) for name in (TAIL_SIZE, TAIL_DIGEST))
    if size is None or digest is None:
        return None
    if not (_NUMBER.fullmatch(size) and SIZES.size < int(size) <= descriptor.size and _SHA256.fullmatch(digest)):
        raise InvalidImageError("its annotations state an impossible part of the index")
    start = descriptor.size - int(size)
    if start < _MIN_WINDOWS or int(size) > _MAX_TAIL:
        return None
    return Tail(f"index {descriptor.digest}", start, int(size), bytes.fromhex(digest))


def open_with_tail(source: Source, descriptor: Descriptor, tail: Tail) -> LayerIndex | None:
    """Open an index of which at least the tail is in the cache, after fetching it if necessary.

    Return None if that does not work here: there is no room for the tail, or the blob is not in a file.

    Raises:
        InvalidImageError: The index does not match what the descriptor states.
        NotFoundError, RegistryError: The tail cannot be fetched.
    """
    file = source.open_lazily(descriptor)
    if isinstance(file, LazyBlob):
        if file.verified(tail, 0) is None:
            file.run(tail, 0, tail.size)
            if file.verified(tail, 0) is None:  # the disk is full
                return None
    elif not isinstance(file, FileReader):
        return None
    index = open_index(file, tail=tail.digest)
    if index.data_size != tail.start:
        raise InvalidImageError("its annotations state another part of the index than it has")
    if not index.windows.are_verifiable:
        raise InvalidImageError("its windows have no digests")
    return index
