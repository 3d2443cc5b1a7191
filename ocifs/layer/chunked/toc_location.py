"""Locate the TOC of a layer, by the annotations of its descriptor or the last bytes of its blob."""

import re
import struct
from collections.abc import Mapping
from typing import Literal, NamedTuple

from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.limits import Limits
from ocifs.spec.digest import Digest
from ocifs.spec.document import shown
from ocifs.spec.mediatypes import Compression

Format = Literal["estargz", "zstd:chunked"]

FORMATS: Mapping[Compression, Format] = {"gzip": "estargz", "zstd": "zstd:chunked"}

FOOTER = 72
"""Bytes of the longest footer at the end of a blob."""

_ESTARGZ_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
_DIALECTS = ("io.github.containers.zstd-chunked.", "io.containers.zstd-chunked.")
"""The prefixes of the annotations of containers/storage and of stargz-snapshotter."""

# An empty gzip member, whose header has an extra field "SG" with 16 hex digits and a mark.
_ESTARGZ = re.compile(rb"\x1f\x8b\x08\x04.{6}\x1a\x00SG\x16\x00([0-9a-f]{16})STARGZ\x01\x00\x00\xff\xff.{8}", re.DOTALL)
_ESTARGZ_SIZE = 51
_EXTERNAL = b"STARGZEXTERNALTOC"
_SKIPPABLE = struct.Struct("<II")
_SKIPPABLE_MAGIC = 0x184D2A50
_CRFS = 1  # the only type of TOC
# offset, size, decompressed size and type of the TOC; then the same, without a type, for the tar-split data
_FOOTERS = ((struct.Struct("<QQQQ24x8s"), b"GNUlInUx"), (struct.Struct("<QQQQ8s"), b"GnUlInUx"))
_POSITION = re.compile(r"(\d{1,18}):(\d{1,18}):(\d{1,18}):(\d{1,18})")


class Promise(NamedTuple):
    """The TOC that the descriptor of a layer promises."""

    format: Format
    digest: Digest
    """Digest of the JSON for eStargz, of the stored bytes for zstd:chunked."""
    location: "TocLocation | None" = None
    """None: the footer states it."""


class TocLocation(NamedTuple):
    """The position of a TOC in a blob."""

    format: Format
    offset: int
    size: int
    """Stored bytes; for eStargz, all bytes between its start and the footer."""
    length: int | None = None
    """Decompressed bytes, if stated."""


def promised(annotations: Mapping[str, str], compression: Compression) -> Promise | None:
    """Return the TOC that the annotations of a layer's descriptor promise, or None.

    Raises:
        InvalidImageError: They are malformed, or contradict each other.
        UnsupportedError: The TOC has another type.
    """
    if compression == "gzip" and _ESTARGZ_DIGEST in annotations:
        return Promise("estargz", Digest(annotations[_ESTARGZ_DIGEST]))
    dialects = [dialect for dialect in _DIALECTS if any(name.startswith(dialect) for name in annotations)]
    if len(dialects) > 1:
        raise InvalidImageError("its annotations use both dialects of zstd:chunked: two readers might see two trees")
    if compression != "zstd" or not dialects:
        return None
    checksum, position = (annotations.get(f"{dialects[0]}manifest-{name}") for name in ("checksum", "position"))
    if checksum is None or position is None:
        return None
    numbers = _POSITION.fullmatch(position)
    if numbers is None:
        raise InvalidImageError(f"its annotation manifest-position is '{shown(position)}'")
    return Promise("zstd:chunked", Digest(checksum), _zstd_location(*map(int, numbers.groups())))


def footed(tail: bytes, blob_size: int, compression: Compression) -> TocLocation:
    """Return the location of a blob's TOC, by its last `FOOTER` bytes (fewer if the blob is shorter).

    Raises:
        InvalidImageError: They do not locate a TOC.
        UnsupportedError: It is not in the blob, or has another type.
    """
    if compression == "gzip":
        return _estargz(tail, blob_size)
    for footer, magic in _FOOTERS if compression == "zstd" else ():
        frame = tail[-footer.size - _SKIPPABLE.size :]
        head = _SKIPPABLE.pack(_SKIPPABLE_MAGIC, footer.size)
        if len(frame) == len(head) + footer.size and frame.startswith(head) and frame.endswith(magic):
            return _zstd_location(*footer.unpack_from(frame, _SKIPPABLE.size)[:4])
    raise InvalidImageError("its blob has no footer with the location of a TOC")


def check(location: TocLocation, blob_size: int, limits: Limits) -> TocLocation:
    """Return the location if a blob of `blob_size` bytes can have a TOC there.

    Raises:
        InvalidImageError: It cannot.
        LimitError: It is larger than a TOC may be.
    """
    for size in (location.size, location.length or 0):
        if size > limits.toc:
            raise limits.passed("toc", f"a TOC of {size} bytes")
    if not (location.offset > 0 and location.size > 0 and location.offset + location.size < blob_size):
        raise InvalidImageError(f"its TOC is stated to be at byte {location.offset}, {location.size} bytes long")
    return location


def _estargz(tail: bytes, blob_size: int) -> TocLocation:
    footer = _ESTARGZ.fullmatch(tail[-_ESTARGZ_SIZE:])
    if footer is not None:
        offset = int(footer[1], 16)
        return TocLocation("estargz", offset, blob_size - _ESTARGZ_SIZE - offset)
    if _EXTERNAL in tail:
        raise UnsupportedError("its TOC is in another image")
    raise InvalidImageError("its blob has no footer with the location of a TOC")


def _zstd_location(offset: int, size: int, length: int, toc_type: int) -> TocLocation:
    if toc_type != _CRFS:
        raise UnsupportedError(f"its TOC has the type {toc_type}; the only known type is {_CRFS}")
    return TocLocation("zstd:chunked", offset, size, length)
