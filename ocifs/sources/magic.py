"""Formats recognised by magic numbers: the compression of a layer or an archive, or what else a file may be.

Sources: RFC 1952 (gzip), RFC 8878 (zstd frames and skippable frames), the xz file format, bzip2, the LZ4 frame format.
An empty file is an uncompressed tar without entries, as for containerd and podman.
"""

import re

from ocifs.errors import UnsupportedError
from ocifs.reader import ReaderAt
from ocifs.spec.mediatypes import COMPRESSIONS, Compression

HEAD = 512
"""Bytes that suffice to recognise a format."""

_COMPRESSED: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd"),
    (re.compile(rb"\xfd7zXZ\0"), "xz"),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "bzip2"),  # the name of a tar member may begin with BZh
    (re.compile(rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18"), "lz4"),
)
_TEXT: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\s*(?:<!doctype html|<html)", re.IGNORECASE), "HTML"),
    (re.compile(rb"\s*<\?xml"), "XML"),
    (re.compile(rb"\s*[{\[]"), "JSON"),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def compression_of(head: bytes) -> str:
    """Return `gzip`, `zstd`, `xz`, `bzip2` or `lz4`, or `tar` for anything else."""
    return next((name for magic, name in _COMPRESSED if magic.match(head)), "tar")


def format_of(head: bytes) -> str | None:
    """Return the name of a format that is not tar, for a message; None if `head` may be tar or is unknown."""
    if not head:
        return "empty"
    if (compression := compression_of(head)) != "tar":
        return compression
    if _CONTROL.search(head[:HEAD]) or not _is_utf8(head[:HEAD]):
        return None
    return next((name for beginning, name in _TEXT if beginning.match(head)), "text")


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def sniff_layer(reader: ReaderAt, layer: str) -> Compression:
    """Return the compression of a layer; `layer` names it in errors.

    Raises:
        UnsupportedError: ocifs does not read that compression.
    """
    found = compression_of(reader.pread(min(HEAD, reader.size), 0))
    for compression in COMPRESSIONS:
        if compression == found:
            return compression
    raise UnsupportedError(f"{layer} is compressed with {found}: recompress the image with gzip or zstd")
