"""The JSON of a TOC: decompressed within bounds, and decoded into what it says of each file.

Nothing of it is believed here but its form: numbers are numbers, and names are such as a tar can have.
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
"""The TOC of an eStargz is a file of the layer's tar, the last one."""

_VERSIONS = (1, 2)
_TAR_MORE = 1 << 20
"""Bytes that a tar has besides the one file in it: its headers, and zeros at the end."""
_WINDOW = 1 << 27
_INPUT = 1 << 20
_REPLACED = "\ufffd"


class Item(msgspec.Struct, frozen=True, rename="camel", gc=False, kw_only=True):
    """What the TOC says of a file, or of a further chunk of the file before."""

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
    """Of all of a file."""
    offset: int = 0
    """Where in the blob the member or frame with the chunk begins."""
    end_offset: int = 0
    """Where in the blob the file ends, if that is told."""
    inner_offset: int = 0
    """Where in the decoded member the chunk begins."""
    chunk_offset: int = 0
    """Where in the file."""
    chunk_size: int = 0
    """0: up to the end of the file."""
    chunk_digest: str = ""
    chunk_type: Literal["", "zeros"] = ""
    """A chunk of zeros is stored nowhere."""


class _Document(msgspec.Struct, frozen=True):
    version: int
    entries: list[Item] | None
    """Go writes a list of nothing as null."""


_DOCUMENT = msgspec.json.Decoder(_Document)
"""Made while the module is imported: msgspec must not meet a type for the first time in two threads at once."""


def unpacked_tar(stored: bytes, limits: Limits) -> tuple[Entry, bytes]:
    """Return the entry of an eStargz's TOC in its tar, and the tar from the beginning of the TOC's member on.

    Raises:
        InvalidImageError: It is damaged, or another file.
        UnsupportedError: It has a mode, an owner or a time: nobody writes such.
        LimitError: It is larger than a TOC may be.
    """
    inflater = zlib_ng.decompressobj(wbits=31)
    try:
        tar = inflater.decompress(stored, limits.toc + _TAR_MORE)
    except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls it a value
        raise InvalidImageError(f"its TOC is damaged: {error}") from None
    if not inflater.eof and inflater.unconsumed_tail:
        raise limits.passed("toc", f"a TOC of more than {limits.toc} bytes")
    try:
        entries = scan(ReaderForward(BytesReader(tar)), limits=limits, warn=lambda message: None)
    except InvalidImageError as error:
        raise InvalidImageError(f"its TOC is damaged: {error}") from None
    if [(entry.kind, entry.path, entry.sparse) for entry in entries] != [(REGULAR, ESTARGZ_NAME, None)]:
        raise InvalidImageError("its footer leads to something else than a TOC")
    (entry,) = entries
    if entry != Entry(REGULAR, ESTARGZ_NAME, 0, 0, 0, 0, entry.size, entry.offset, entry.size):
        raise UnsupportedError("its TOC has attributes as a file, to which no digest commits")
    return entry, tar


def unpacked_zstd(stored: bytes, place: TocLocation, limits: Limits) -> bytes:
    """Return the JSON of a zstd:chunked TOC. Raises what `unpacked_tar` does."""
    length = limits.toc if place.length is None else place.length
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
        raise InvalidImageError(f"its TOC has other than {length} bytes")
    return data


def items_of(document: bytes, limits: Limits) -> list[Item]:
    """Return what a TOC says.

    Raises:
        InvalidImageError: It is malformed.
        UnsupportedError: It is of an unknown version, or has names that JSON cannot hold.
        LimitError: It has more entries than a layer may.
    """
    try:
        decoded = _DOCUMENT.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidImageError(f"its TOC is malformed: {shown(str(error))}") from None
    if decoded.version not in _VERSIONS:
        raise UnsupportedError(f"its TOC is of the unknown version {decoded.version}")
    entries = decoded.entries or []
    if len(entries) > limits.entries:
        raise limits.passed("entries", f"a TOC with {len(entries)} entries")
    return entries


def raw(name: str) -> bytes:
    """Return a name as a tar has it.

    Raises:
        UnsupportedError: The writer of the TOC could not write it down.
    """
    if _REPLACED in name:
        raise UnsupportedError(f"its TOC has lost the bytes of a name that is no UTF-8: '{shown(name)}'")
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise InvalidImageError("its TOC has a name that is no text") from None


def nanoseconds(time: str | None) -> int:
    """Return a time in nanoseconds since the epoch, 0 if it is missing. Raises InvalidImageError."""
    try:
        return parse_time(time) if time else 0
    except ValueError:
        raise InvalidImageError(f"its TOC has an invalid time '{shown(time or '')}'") from None
