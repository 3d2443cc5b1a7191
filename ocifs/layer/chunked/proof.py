"""Holding what a TOC says of a layer against the layer's tar: attributes, and every byte of every file.

What a TOC cannot say is no lie: it may have cleaned a name, and rounded a time to seconds. Everything else is.
"""

import hashlib
from collections.abc import Callable, Iterator

from ocifs.errors import InvalidImageError, printable
from ocifs.layer.index import LayerIndex
from ocifs.layer.layer import Layer
from ocifs.toc import HARDLINK, REGULAR, SYMLINK, Entry
from ocifs.tree.merge import clean_path

_PIECE = 1 << 20
_SECOND = 10**9


def agrees(told: LayerIndex, layer: Layer, pause: Callable[[int], None]) -> bool:
    """Return whether an index made of a TOC says just what the tar of `layer` does, and not only as far as it can.

    Raises:
        InvalidImageError: It says something else.
    """
    said, there = told.summary.entries, layer.index.summary.entries
    exact = True
    for claim, entry in zip(told.entries(), layer.index.entries(), strict=False):
        _compare(claim, entry, told.summary.blob_digest)
        exact = exact and (claim.mtime_ns == entry.mtime_ns or entry.kind == HARDLINK)
        if not all(same for same in _contents(told, claim, layer, entry, pause)):
            raise _lie(told.summary.blob_digest, entry, "other bytes")
    if said != there:
        raise InvalidImageError(f"layer {told.summary.blob_digest}: its TOC has {said} entries, its tar {there}")
    return exact


def _compare(claim: Entry, entry: Entry, blob: str) -> None:
    for what, same in (
        ("another kind or name", claim.kind == entry.kind and _same_path(claim.path, entry.path)),
        ("another target", _same_target(claim, entry)),
        ("another mode", entry.kind in {SYMLINK, HARDLINK} or claim.mode == entry.mode),
        ("another owner", entry.kind == HARDLINK or (claim.uid, claim.gid) == (entry.uid, entry.gid)),
        ("another time", entry.kind == HARDLINK or _same_time(claim.mtime_ns, entry.mtime_ns)),
        ("another size", claim.size == entry.size),
        ("another device", claim.rdev == entry.rdev),
        ("other extended attributes", entry.kind == HARDLINK or claim.xattrs == entry.xattrs),
    ):
        if not same:
            raise _lie(blob, entry, what)


def _lie(blob: str, entry: Entry, what: str) -> InvalidImageError:
    return InvalidImageError(f"layer {blob}: its TOC gives '{printable(entry.path)}' {what} than its tar")


def _same_path(claim: bytes, path: bytes) -> bool:
    return claim == path or clean_path(claim) == clean_path(path)


def _same_target(claim: Entry, entry: Entry) -> bool:
    same = claim.linkname == entry.linkname
    return same or (entry.kind == HARDLINK and clean_path(claim.linkname) == clean_path(entry.linkname))


def _same_time(claim: int, time: int) -> bool:
    """Whether they are the same time, the first of which may have been rounded or cut to whole seconds."""
    return claim == time or (claim % _SECOND == 0 and abs(claim - time) < _SECOND)


def _contents(
    told: LayerIndex, claim: Entry, layer: Layer, entry: Entry, pause: Callable[[int], None]
) -> Iterator[bool]:
    """Give for each piece of a regular file whether the tar has what the chunk's digest says."""
    if entry.kind != REGULAR or not entry.size:
        return
    for span in range(told.span_at(claim.offset), told.span_count):
        done = told.starts[span] - claim.offset
        if done >= claim.size:
            return
        length = told.chunk_length(span)
        zeros = min(told.starts[span + 1] - claim.offset, claim.size) - done - length
        yield hashlib.sha256(b"".join(_logical(layer, entry, done, length))).digest() == told.digest(span)
        yield all(not any(data) for data in _logical(layer, entry, done + length, zeros))
        pause(0)


def _logical(layer: Layer, entry: Entry, offset: int, size: int) -> Iterator[bytes]:
    """Give `size` bytes of a file from `offset` on, in pieces."""
    place = entry.offset
    for begin, length in entry.sparse if entry.sparse is not None else ((0, entry.stored),):
        hole = min(begin, offset + size) - offset
        for left in range(max(hole, 0), 0, -_PIECE):
            yield bytes(min(left, _PIECE))
        offset, size = offset + max(hole, 0), size - max(hole, 0)
        inside = offset - begin
        while size and inside < length:
            data = layer.pread(min(size, length - inside, _PIECE), place + inside)
            yield data
            inside, offset, size = inside + len(data), offset + len(data), size - len(data)
        place += length
    for left in range(size, 0, -_PIECE):
        yield bytes(min(left, _PIECE))
