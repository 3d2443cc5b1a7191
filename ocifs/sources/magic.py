"""How a file is compressed, told from its first bytes, for files that nothing else describes.

Sources: RFC 1952, RFC 8878 (frames and skippable frames), the xz file format, bzip2.
"""

import re

from ocifs.errors import UnsupportedError
from ocifs.reader import ReaderAt
from ocifs.spec.mediatypes import Compression

_MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd"),
    (re.compile(rb"\xfd7zXZ\0"), "xz"),
    (re.compile(rb"BZh[1-9]"), "bzip2"),
)


def sniff(reader: ReaderAt) -> str:
    """Return `gzip`, `zstd`, `xz` or `bzip2`, or `tar` for anything else."""
    head = reader.pread(6, 0)
    return next((name for magic, name in _MAGIC if magic.match(head)), "tar")


def sniff_layer(reader: ReaderAt, layer: str) -> Compression:
    """Return how a layer is compressed; `layer` is what errors call it.

    Raises:
        UnsupportedError: In a way that no image has.
    """
    match sniff(reader):
        case "tar" | "gzip" | "zstd" as compression:
            return compression
        case other:
            raise UnsupportedError(f"{layer} is compressed with {other}: recompress the image with gzip or zstd")
