"""Pack and unpack the zstd frames of an index: windows, and the TOC."""

from collections.abc import Callable

import zstandard

from ocifs.errors import InvalidImageError


def window_packer(level: int = 3) -> Callable[[bytes], bytes]:
    """Return a function that packs a window into a frame, and an empty one into b""; for use by one thread."""
    # With a checksum: no digest covers the windows, and a wrong window would decode to wrong bytes.
    compress = zstandard.ZstdCompressor(level=level, write_checksum=True).compress
    return lambda window: compress(window) if window else b""


def unpack(packed: bytes, limit: int) -> bytes:
    """Decompress a frame of at most `limit` bytes. Raises InvalidImageError."""
    try:
        size = zstandard.frame_content_size(packed)
        if not 0 <= size <= limit:  # the decompressor allocates the claimed size at once
            raise InvalidImageError(f"a frame claims {size} bytes, over {limit}")
        return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise InvalidImageError(str(error)) from None
