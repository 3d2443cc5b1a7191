"""Convert a TOC to the content of a LayerIndex: entries, and chunks as spans of a stream.

A TOC does not state the offset of a file in the tar, because headers of unknown length lie between files. So the stream
of its LayerIndex is another one: the concatenated chunks. The chunks of each file start at a multiple of 512, as if
headers lay between. This module checks every claim of the TOC that a reader relies on.
"""

import hashlib
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from msgspec.structs import replace

from ocifs.compression import MAX_SPAN
from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.layer.chunked.document import Item, nanoseconds, raw
from ocifs.layer.span_digests import MAX_STORED
from ocifs.limits import Limits
from ocifs.spec.document import shown
from ocifs.toc import BLOCK, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Entry
from ocifs.toc.check import check_entries

_PIECE = 4 << 20
_SHA256 = re.compile("sha256:([0-9a-f]{64})")
_LANDMARK = b".prefetch.landmark"
_KINDS = {
    "reg": REGULAR,
    "hardlink": HARDLINK,
    "symlink": SYMLINK,
    "char": CHARACTER,
    "block": BLOCK,
    "dir": DIRECTORY,
    "fifo": FIFO,
}


class TocChunk(NamedTuple):
    """A piece of a file, and a span of the stream."""

    start: int
    """Offset in the stream."""
    offset: int
    """Offset in the blob of its member or frame."""
    skip: int
    """Offset in the decoded member."""
    length: int
    digest: bytes
    """sha256 of its bytes."""


_ZEROS = TocChunk(0, -1, 0, 0, hashlib.sha256().digest())
"""Zeros without stored bytes: a span that consists only of the padding after an empty chunk."""


class ChunkTable(NamedTuple):
    """The content of a LayerIndex from a TOC."""

    entries: list[Entry]
    chunks: list[TocChunk]
    size: int
    """Bytes of the stream."""
    end: int
    """Offset in the blob at which the last chunk ends."""
    first: int
    """Number of chunks before the prefetch landmark."""


def make_table(items: list[Item], end: int, limits: Limits) -> ChunkTable:
    """Return the table of a blob whose chunks lie before `end`.

    Raises:
        InvalidImageError: The TOC is inconsistent.
        UnsupportedError: Its chunks cannot be read one by one.
        LimitError: It exceeds the limits of a layer.
    """
    entries: list[Entry] = []
    chunks: list[TocChunk] = []
    size = first = last_end = 0
    for item, further in _files(items):
        if size + item.size > limits.uncompressed:  # before its chunks are counted
            raise limits.passed("uncompressed", f"files of more than {limits.uncompressed} bytes")
        try:
            entry, of_file = _convert(item, further, size)
        except (InvalidImageError, UnsupportedError) as error:
            raise type(error)(f"its TOC, entry '{shown(item.name)}': {error}") from None
        if entry.path.removeprefix(b"./") == _LANDMARK:
            first = len(chunks)
        entries.append(entry)
        chunks += of_file
        last_end = item.end_offset if of_file else last_end
        size += entry.stored + -entry.stored % 512
    stored = [chunk for chunk in chunks if chunk.length]
    if stored and stored[-1].offset < last_end < end:
        end = last_end
    _check_offsets(stored, end)
    check_entries(entries, size, limits)
    return ChunkTable(entries, _locate_zeros(chunks), size, end if stored else 0, first)


def with_file(table: ChunkTable, entry: Entry, member: bytes, offset: int, end: int) -> ChunkTable:
    """Return the table with one more file, which is the only file in its own decoded `member` of the blob."""
    data = memoryview(member)[entry.offset : entry.offset + entry.stored]
    chunks = [
        TocChunk(
            table.size + offset_in_file,
            offset,
            entry.offset + offset_in_file,
            len(data[offset_in_file : offset_in_file + _PIECE]),
            hashlib.sha256(data[offset_in_file : offset_in_file + _PIECE]).digest(),
        )
        for offset_in_file in range(0, len(data), _PIECE)
    ]
    return table._replace(
        entries=[*table.entries, replace(entry, offset=table.size)],
        chunks=table.chunks + chunks,
        size=table.size + entry.stored + -entry.stored % 512,
        end=end,
    )


def _files(items: list[Item]) -> Iterator[tuple[Item, list[Item]]]:
    """Yield each entry with its further chunks."""
    number = 0
    while number < len(items):
        item = items[number]
        number += 1
        further = []
        while number < len(items) and items[number].type == "chunk":
            further.append(items[number])
            number += 1
        if item.type == "chunk" or (further and item.type != "reg") or any(each.name != item.name for each in further):
            raise InvalidImageError(f"its TOC, entry '{shown(item.name)}': a chunk without a file")
        yield item, further


def _convert(item: Item, further: list[Item], start: int) -> tuple[Entry, list[TocChunk]]:
    """Return an entry and its chunks, the first of which lies at `start` in the stream."""
    kind = _KINDS[item.type]
    path = raw(item.name)
    if not path and kind == DIRECTORY:
        path = b"./"  # cleaning removed the whole name
    chunks = _chunks(item, further, start) if kind == REGULAR else []
    size = item.size if kind == REGULAR else 0
    entry = Entry(
        kind,
        path,
        item.mode & 0o7777,
        item.uid,
        item.gid,
        nanoseconds(item.modtime),
        size,
        start if kind == REGULAR else 0,
        size,
        raw(item.link_name) if kind in {HARDLINK, SYMLINK} else b"",
        (item.dev_major, item.dev_minor) if kind in {CHARACTER, BLOCK} else (0, 0),
        {raw(name): value or b"" for name, value in (item.xattrs or {}).items()},
    )
    return entry, chunks


def _chunks(item: Item, further: list[Item], start: int) -> list[TocChunk]:
    """Return the chunks of a file, including `_ZEROS`."""
    chunks: list[TocChunk] = []
    done = 0
    parts = [item, *further] if item.size else []
    for part in parts:
        length = part.chunk_size or item.size - done
        if part.chunk_offset != done or not 0 < length <= item.size - done:
            raise InvalidImageError("chunks with gaps or overlaps")
        if part.chunk_type == "zeros":
            chunks += [_ZEROS._replace(start=start + done + skipped) for skipped in range(0, length, MAX_SPAN)]
        elif length > MAX_SPAN or not 0 <= part.inner_offset <= MAX_SPAN:
            raise UnsupportedError(f"a chunk of more than {MAX_SPAN} bytes")
        else:
            digest = part.chunk_digest or (item.digest if len(parts) == 1 else "")
            chunks.append(TocChunk(start + done, part.offset, part.inner_offset, length, _sha256(digest)))
        done += length
    if done != item.size:
        raise InvalidImageError(f"chunks of {done} bytes in a file of {item.size}")
    return chunks


def _locate_zeros(chunks: list[TocChunk]) -> list[TocChunk]:
    """Locate each chunk of zeros at the end of the chunk before it, or at the start of the first chunk."""
    last = next((chunk for chunk in chunks if chunk.length), TocChunk(0, 0, 0, 0, b""))._replace(skip=0, length=0)
    located = []
    for chunk in chunks:
        last = chunk if chunk.length else chunk._replace(offset=last.offset, skip=last.skip + last.length)
        located.append(last)
    return located


def _sha256(digest: str) -> bytes:
    if match := _SHA256.fullmatch(digest):
        return bytes.fromhex(match[1])
    raise UnsupportedError(f"a chunk with the digest '{shown(digest)}', which is not sha256")


def _check_offsets(chunks: list[TocChunk], end: int) -> None:
    """Check that the chunks are in the blob, in order, and that few bytes belong to each."""
    for chunk, next_chunk in pairwise(chunks):
        same = chunk.offset == next_chunk.offset
        if next_chunk.offset < chunk.offset or (same and next_chunk.skip < chunk.skip + chunk.length):
            raise UnsupportedError(
                f"its TOC: the chunk at byte {next_chunk.offset} of the blob comes after that at {chunk.offset}"
            )
    boundaries = [*sorted({chunk.offset for chunk in chunks}), end]
    if boundaries[0] < 0 or (chunks and boundaries[-2] >= end):
        raise InvalidImageError("its TOC: a chunk outside of the blob")
    for begin, boundary in pairwise(boundaries):
        if boundary - begin > MAX_STORED:
            raise UnsupportedError(f"its TOC: {boundary - begin} bytes of the blob at {begin} belong to one chunk")
