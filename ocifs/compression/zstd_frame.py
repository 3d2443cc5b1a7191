"""What an index holds as zstd frames: windows, and the TOC."""

from collections.abc import Callable

import zstandard

from ocifs.errors import InvalidImageError


def window_packer() -> Callable[[bytes], bytes]:
    """Return what makes a frame of a window, and nothing of no window; for one thread."""
    # With a checksum: no digest is of the windows, and a wrong one would give wrong bytes.
    compress = zstandard.ZstdCompressor(level=3, write_checksum=True).compress
    return lambda window: compress(window) if window else b""


def unpack(packed: bytes, limit: int) -> bytes:
    """Decompress a frame that may hold `limit` bytes. Raises InvalidImageError."""
    try:
        size = zstandard.frame_content_size(packed)
        if not 0 <= size <= limit:  # what it claims to hold is allocated at once
            raise InvalidImageError(f"a frame that claims {size} bytes")
        return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise InvalidImageError(str(error)) from None
