"""Compare a TOC with the tar of its layer: everything that a reader sees, and every byte of every file.

Honest writers lose some information, so a TOC may say less than the tar. They clean names, and round times or cut them
to seconds. They read tars with Go's archive/tar, which drops extended attributes with an empty value and those in
libarchive's records. Attributes that no reader sees are not compared. Any other difference is an error. The same rules
serve `--toc verify`, `ocifs verify`, and the background verification of a mount.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache

from ocifs.erofs.xattr import is_storable
from ocifs.errors import InvalidImageError, counted, printable
from ocifs.layer.index import ChunkedIndex
from ocifs.layer.layer import Layer
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.toc import HARDLINK, REGULAR, SYMLINK, ChunkReader, Entry, scan
from ocifs.tree.merge import clean_path, is_hidden

_PIECE = 1 << 20
_SECOND = 10**9


def agrees(claimed: ChunkedIndex, layer: Layer, pause: Callable[[int], None], limits: Limits = DEFAULT_LIMITS) -> bool:
    """Return whether an index made from a TOC equals the tar of `layer`; False: the TOC only lacks something.

    Raises:
        InvalidImageError: It differs from the tar.
    """
    claimed_count, actual_count = claimed.summary.entries, layer.index.summary.entries
    exact = True

    @cache
    def read_by_go() -> list[Entry]:
        return _read_by_go(layer, pause, limits)

    for number, (claim, entry) in enumerate(zip(claimed.entries(), layer.index.entries(), strict=False)):
        _compare(claim, entry, claimed.summary.blob_digest)
        if entry.kind != HARDLINK:
            lost = _lost_xattrs(claim, entry, claimed.summary.blob_digest)
            if any(entry.xattrs[name] and name in read_by_go()[number].xattrs for name in lost):
                raise _difference(claimed.summary.blob_digest, entry, "other extended attributes")
            exact = exact and not lost and claim.mtime_ns == entry.mtime_ns
        if not all(same for same in _contents(claimed, claim, layer, entry, pause)):
            raise _difference(claimed.summary.blob_digest, entry, "other bytes")
    if claimed_count != actual_count:
        raise InvalidImageError(
            f"layer {claimed.summary.blob_digest}: its TOC has {counted(claimed_count, 'entry', 'entries')}, "
            f"its tar {actual_count}"
        )
    return exact


def _lost_xattrs(claim: Entry, entry: Entry, blob: str) -> set[bytes]:
    """Return the names of the extended attributes that the claim lacks. Raises InvalidImageError for different ones."""
    claimed_xattrs, actual = _visible(claim.xattrs), _visible(entry.xattrs)
    if any(actual.get(name) != value for name, value in claimed_xattrs.items()):
        raise _difference(blob, entry, "other extended attributes")
    return actual.keys() - claimed_xattrs.keys()


def _visible(xattrs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in xattrs.items() if is_storable(name) and not is_hidden(name)}


def _read_by_go(layer: Layer, pause: Callable[[int], None], limits: Limits) -> list[Entry]:
    """Read the headers of a layer again, without libarchive's records of extended attributes."""

    def decoded() -> Iterator[bytes]:
        for data in layer.stream():
            pause(0)
            yield data

    return scan(ChunkReader(decoded()), limits=limits, warn=lambda message: None, libarchive=False)


def _compare(claim: Entry, entry: Entry, blob: str) -> None:
    for what, same in (
        ("another kind or name", claim.kind == entry.kind and _same_path(claim.path, entry.path)),
        ("another target", _same_target(claim, entry)),
        ("another mode", entry.kind in {SYMLINK, HARDLINK} or claim.mode == entry.mode),
        ("another owner", entry.kind == HARDLINK or (claim.uid, claim.gid) == (entry.uid, entry.gid)),
        ("another time", entry.kind == HARDLINK or _same_time(claim.mtime_ns, entry.mtime_ns)),
        ("another size", claim.size == entry.size),
        ("another device", claim.rdev == entry.rdev),
    ):
        if not same:
            raise _difference(blob, entry, what)


def _difference(blob: str, entry: Entry, what: str) -> InvalidImageError:
    return InvalidImageError(f"layer {blob}: its TOC gives '{printable(entry.path)}' {what} than its tar")


def _same_path(claim: bytes, path: bytes) -> bool:
    return claim == path or clean_path(claim)[0] == clean_path(path)[0]


def _same_target(claim: Entry, entry: Entry) -> bool:
    same = claim.linkname == entry.linkname
    return same or (entry.kind == HARDLINK and _same_path(claim.linkname, entry.linkname))


def _same_time(claim: int, time: int) -> bool:
    """Whether the times are equal, if the claim may be rounded or cut to whole seconds."""
    return claim == time or (claim % _SECOND == 0 and abs(claim - time) < _SECOND)


def _contents(
    claimed: ChunkedIndex, claim: Entry, layer: Layer, entry: Entry, pause: Callable[[int], None]
) -> Iterator[bool]:
    """Yield for each piece of a regular file whether the tar matches the chunk's digest."""
    if entry.kind != REGULAR or not entry.size:
        return
    for span in range(claimed.span_at(claim.offset), claimed.span_count):
        done = claimed.starts[span] - claim.offset
        if done >= claim.size:
            return
        length = claimed.chunk_length(span)
        zeros = min(claimed.starts[span + 1] - claim.offset, claim.size) - done - length
        yield hashlib.sha256(b"".join(_logical(layer, entry, done, length))).digest() == claimed.digest(span)
        yield all(not any(data) for data in _logical(layer, entry, done + length, zeros))
        pause(0)


def _logical(layer: Layer, entry: Entry, offset: int, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of a file from `offset` on, in pieces."""
    position = entry.offset
    for begin, length in entry.sparse if entry.sparse is not None else ((0, entry.stored),):
        hole = min(begin, offset + size) - offset
        for left in range(max(hole, 0), 0, -_PIECE):
            yield bytes(min(left, _PIECE))
        offset, size = offset + max(hole, 0), size - max(hole, 0)
        inside = offset - begin
        while size and inside < length:
            data = layer.pread(min(size, length - inside, _PIECE), position + inside)
            yield data
            inside, offset, size = inside + len(data), offset + len(data), size - len(data)
        position += length
    for left in range(size, 0, -_PIECE):
        yield bytes(min(left, _PIECE))
