"""The JSON of a TOC: decompress it within limits, and parse it.

Only its form is checked here: numbers are numbers, and names can be in a tar.
"""

import io
from typing import Literal

import msgspec
import zstandard
from zlib_ng import zlib_ng

from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.layer.chunked.toc_location import TocLocation
from ocifs.limits import Limits
from ocifs.reader import BytesReader
from ocifs.spec.document import shown
from ocifs.spec.rfc3339 import parse_time
from ocifs.toc import REGULAR, Entry, ReaderForward, scan

ESTARGZ_NAME = b"stargz.index.json"
"""The TOC of an eStargz is the last file of the layer's tar."""

_VERSIONS = (1, 2)
_TAR_OVERHEAD = 1 << 20
"""Maximum bytes of that tar besides the file: headers, and zeros at the end."""
_WINDOW = 1 << 27
_INPUT = 1 << 20
_REPLACEMENT = "\ufffd"


class Item(msgspec.Struct, frozen=True, rename="camel", gc=False, kw_only=True):
    """The description of a file, or of another chunk of the file before."""

    name: str
    type: Literal["dir", "reg", "symlink", "hardlink", "char", "block", "fifo", "chunk"]
    size: int = 0
    modtime: str | None = None
    link_name: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    dev_major: int = 0
    dev_minor: int = 0
    xattrs: dict[str, bytes | None] | None = None
    digest: str = ""
    """Of the whole file."""
    offset: int = 0
    """Offset in the blob of the member or frame with the chunk."""
    end_offset: int = 0
    """Offset in the blob at which the file ends, if stated."""
    inner_offset: int = 0
    """Offset of the chunk in the decoded member."""
    chunk_offset: int = 0
    """Offset of the chunk in the file."""
    chunk_size: int = 0
    """0: up to the end of the file."""
    chunk_digest: str = ""
    chunk_type: Literal["", "zeros"] = ""
    """A chunk of zeros is stored nowhere."""


class _Document(msgspec.Struct, frozen=True):
    version: int
    entries: list[Item] | None
    """Go encodes an empty list as null."""


_DOCUMENT = msgspec.json.Decoder(_Document)
"""Created during import: msgspec must not learn a type in two threads at once."""


def unpacked_tar(stored: bytes, limits: Limits) -> tuple[Entry, bytes]:
    """Return the entry of an eStargz's TOC in its tar, and the tar from the start of the TOC's member.

    Raises:
        InvalidImageError: It is damaged, or another file.
        UnsupportedError: It has a mode, an owner or a time, which no known writer sets.
        LimitError: It is larger than a TOC may be.
    """
    inflater = zlib_ng.decompressobj(wbits=31)
    try:
        tar = inflater.decompress(stored, limits.toc + _TAR_OVERHEAD)
    except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls it a value
        raise InvalidImageError(f"its TOC is damaged: {error}") from None
    if not inflater.eof and inflater.unconsumed_tail:
        raise limits.passed("toc", f"a TOC of more than {limits.toc} bytes")
    try:
        entries = scan(ReaderForward(BytesReader(tar)), limits=limits, warn=lambda message: None)
    except InvalidImageError as error:
        raise InvalidImageError(f"its TOC is damaged: {error}") from None
    if [(entry.kind, entry.path, entry.sparse) for entry in entries] != [(REGULAR, ESTARGZ_NAME, None)]:
        raise InvalidImageError("its footer does not point to a TOC")
    (entry,) = entries
    if entry != Entry(REGULAR, ESTARGZ_NAME, 0, 0, 0, 0, entry.size, entry.offset, entry.size):
        raise UnsupportedError("its TOC has file attributes, to which no digest commits")
    return entry, tar


def unpacked_zstd(stored: bytes, location: TocLocation, limits: Limits) -> bytes:
    """Return the JSON of a zstd:chunked TOC. Raises the errors of `unpacked_tar`."""
    length = limits.toc if location.length is None else location.length
    try:
        with zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(io.BytesIO(stored)) as reader:
            pieces = []
            left = length + 1
            while left and (piece := reader.read(min(left, _INPUT))):
                pieces.append(piece)
                left -= len(piece)
    except zstandard.ZstdError as error:
        raise InvalidImageError(f"its TOC is damaged: {error}") from None
    data = b"".join(pieces)
    if len(data) != length:
        raise InvalidImageError(f"its TOC does not have {length} bytes")
    return data


def items_of(document: bytes, limits: Limits) -> list[Item]:
    """Return the items of a TOC.

    Raises:
        InvalidImageError: It is malformed.
        UnsupportedError: It has an unknown version.
        LimitError: It has more entries than a layer may have.
    """
    try:
        decoded = _DOCUMENT.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidImageError(f"its TOC is malformed: {shown(str(error))}") from None
    if decoded.version not in _VERSIONS:
        raise UnsupportedError(f"its TOC has the unknown version {decoded.version}")
    entries = decoded.entries or []
    if len(entries) > limits.entries:
        raise limits.passed("entries", f"a TOC with {len(entries)} entries")
    return entries


def raw(name: str) -> bytes:
    """Encode a name as in a tar.

    Raises:
        UnsupportedError: The name was not UTF-8, and the writer of the TOC has replaced bytes.
    """
    if _REPLACEMENT in name:
        raise UnsupportedError(f"its TOC has lost bytes of a name that is not UTF-8: '{shown(name)}'")
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise InvalidImageError("its TOC has a name that is not valid Unicode") from None


def nanoseconds(time: str | None) -> int:
    """Return a time in nanoseconds since the epoch, 0 if it is missing. Raises InvalidImageError."""
    try:
        return parse_time(time) if time else 0
    except ValueError:
        raise InvalidImageError(f"its TOC has an invalid time '{shown(time or '')}'") from None
