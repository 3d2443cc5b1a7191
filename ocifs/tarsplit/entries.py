"""The entries of a tar-split file, as containers/storage keeps it beside each layer (`ID.tar-split.gz`).

The file is gzip of one JSON object per line. A raw entry holds bytes of the tar stream: headers, padding and the end of
the archive. A content entry stands for the bytes of a file in the extracted layer: its name, size and CRC-64/GO-ISO.
The format is that of github.com/vbatts/tar-split, `tar/storage/entry.go`, whose reader refuses a second content entry
with the same name. Files from elsewhere are hostile: lines, sizes and the total are bounded before memory is spent.
"""

import base64
import gzip
import zlib
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from ocifs.errors import InvalidImageError, LimitError

MAX_RAW = 1 << 20
"""Bytes of the tar stream in one raw entry that `encode` writes; it splits longer ones."""
MAX_LINE = 16 << 20
"""Bytes of a line that `decode` reads. A Go writer puts a header with all its extensions into one entry."""
MAX_TOTAL = 4 << 30
"""Decompressed bytes that `decode` reads by default."""

_CONTENT, _RAW = 1, 2
_SIZE_MAX = (1 << 63) - 1
_CRC_SIZE = 8


class Raw(NamedTuple):
    """Bytes of the tar stream."""

    data: bytes


class Content(NamedTuple):
    """The bytes of a file in the extracted layer."""

    name: bytes
    """Relative path, as the file states it: the reader must not look it up in a directory of the host unchecked."""
    size: int
    """Bytes of the file; may be 0, which adds nothing to the stream."""
    crc: int | None
    """CRC-64/GO-ISO of the bytes; None for an empty file."""


TarSplitEntry = Raw | Content


class _Line(msgspec.Struct, omit_defaults=True):
    type: int
    name: str = ""
    name_raw: str = ""
    size: int = 0
    payload: str | None = msgspec.field(default_factory=str)  # never omitted: readers may expect it
    position: int = -1


_DECODER = msgspec.json.Decoder(_Line)
_ENCODER = msgspec.json.Encoder()


def encode(entries: Iterable[TarSplitEntry], level: int = 6) -> Iterator[bytes]:
    """Yield the bytes of a tar-split file with these entries, in pieces; equal entries give equal bytes."""
    packing = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for position, entry in enumerate(_split(entries)):
        if packed := packing.compress(_ENCODER.encode(_to_line(entry, position)) + b"\n"):
            yield packed
    yield packing.flush()


def _split(entries: Iterable[TarSplitEntry]) -> Iterator[TarSplitEntry]:
    """Yield the entries; cut long raw ones, and leave out empty ones."""
    for entry in entries:
        if isinstance(entry, Content):
            yield entry
        else:
            view = memoryview(entry.data)
            yield from (Raw(bytes(view[start : start + MAX_RAW])) for start in range(0, len(view), MAX_RAW))


def _to_line(entry: TarSplitEntry, position: int) -> _Line:
    if isinstance(entry, Raw):
        return _Line(type=_RAW, payload=base64.b64encode(entry.data).decode(), position=position)
    payload = None if entry.crc is None else base64.b64encode(entry.crc.to_bytes(_CRC_SIZE)).decode()
    line = _Line(type=_CONTENT, size=entry.size, payload=payload, position=position)
    try:
        line.name = entry.name.decode()
    except UnicodeDecodeError:
        line.name_raw = base64.b64encode(entry.name).decode()
    return line


def decode(file: BinaryIO, what: str = "tar-split", max_total: int = MAX_TOTAL) -> Iterator[TarSplitEntry]:
    """Yield the entries of a tar-split file, which is open for reading; `what` names it in errors.

    Raises, also between entries:
        InvalidImageError: It is malformed or ends early.
        LimitError: A line has more than `MAX_LINE` bytes, or all together more than `max_total`.
        OSError: It cannot be read.
    """
    total = 0
    with gzip.GzipFile(fileobj=file, mode="rb") as lines:
        while line := _next_line(lines, what):
            total += len(line)
            if len(line) > MAX_LINE:
                raise LimitError(f"{what}: an entry has more than {MAX_LINE} bytes")
            if total > max_total:
                raise LimitError(f"{what}: it has more than {max_total} bytes")
            if not line.isspace():
                yield _of_line(line, what)


def _next_line(lines: gzip.GzipFile, what: str) -> bytes:
    try:
        return lines.readline(MAX_LINE + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidImageError(f"{what}: not a complete gzip file: {error}") from None


def _of_line(line: bytes, what: str) -> TarSplitEntry:
    try:
        parsed = _DECODER.decode(line)
        payload = base64.b64decode(parsed.payload or "", validate=True)
        name = base64.b64decode(parsed.name_raw, validate=True) or parsed.name.encode()
    except (msgspec.DecodeError, Base64Error, ValueError) as error:
        raise InvalidImageError(f"{what}: malformed entry: {error}") from None
    if parsed.type == _RAW:
        return Raw(payload)
    if parsed.type != _CONTENT:
        raise InvalidImageError(f"{what}: entry of unknown type {parsed.type}")
    if not 0 <= parsed.size <= _SIZE_MAX or not name:
        raise InvalidImageError(f"{what}: an entry has no name, or the size {parsed.size}")
    if len(payload) != _CRC_SIZE and (payload or parsed.size):
        raise InvalidImageError(f"{what}: an entry has a checksum of {len(payload)} bytes")
    return Content(name, parsed.size, int.from_bytes(payload) if payload else None)


def crc64(data: bytes | memoryview, before: int | None = None) -> int:
    """Return the CRC-64/GO-ISO of `data`, or of data with the checksum `before`, followed by `data`.

    Raises:
        ModuleNotFoundError: The package fastcrc, of the extra `podman`, is missing.
    """
    import fastcrc

    return fastcrc.crc64.go_iso(data, before)
