"""Entries from elsewhere are held against what `scan` would have given."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError, LimitError, OcifsError
from ocifs.limits import Limits
from ocifs.toc import CHARACTER, DIRECTORY, HARDLINK, REGULAR, SYMLINK, ChunkReader, Entry, scan
from ocifs.toc.check import check_entries
from tests.images import tar

FILE = Entry(REGULAR, b"file", 0o644, 0, 0, 0, 700, 512, 700)
SPARSE = msgspec.structs.replace(FILE, size=5000, stored=300, sparse=((0, 100), (1000, 200)))
SIZE = 4096


def test_what_scan_gives_passes() -> None:
    stream = tar({"dir": None, "dir/file": b"content", "empty": b""}) + bytes(512)
    entries = scan(ChunkReader(iter([stream])), warn=lambda message: None)
    check_entries(entries, len(stream))
    check_entries([FILE, SPARSE, Entry(CHARACTER, b"dev", 0o600, 0, 0, 0, rdev=(1, 3))], SIZE)
    check_entries([Entry(SYMLINK, b"link", 0o777, 0, 0, -5, linkname=b"../x")], SIZE)


@pytest.mark.parametrize(
    ("entry", "changes", "message"),
    [
        (FILE, {"path": b""}, "entry ''"),
        (FILE, {"path": b"x" * 5000}, "path"),
        (FILE, {"path": b"a/" + b"x" * 300}, "name"),
        (FILE, {"kind": 7}, "an invalid kind, mode or time"),
        (FILE, {"kind": -1}, "an invalid kind, mode or time"),
        (FILE, {"mode": 0o10000}, "an invalid kind, mode or time"),
        (FILE, {"mtime_ns": 2**63}, "an invalid kind, mode or time"),
        (FILE, {"uid": 2**32}, "owner"),
        (FILE, {"gid": -1}, "owner"),
        (FILE, {"size": -1, "stored": -1}, "size"),
        (FILE, {"offset": 513}, "outside the tar stream"),
        (FILE, {"offset": -512}, "outside the tar stream"),
        (FILE, {"offset": 3584}, "outside the tar stream"),
        (FILE, {"stored": 2**62, "size": 2**62}, "outside the tar stream"),
        (FILE, {"stored": 600}, "bytes stored"),
        (FILE, {"linkname": b"x"}, "a target, though it is not a link"),
        (FILE, {"rdev": (1, 1)}, "a device number, though"),
        (FILE, {"kind": DIRECTORY}, "bytes, though it is not a regular file"),
        (FILE, {"kind": HARDLINK, "size": 0, "stored": 0, "offset": 0}, "target"),
        (FILE, {"kind": CHARACTER, "size": 0, "stored": 0, "offset": 0, "rdev": (4096, 0)}, "an invalid device number"),
        (FILE, {"xattrs": {b"": b"x"}}, "an extended attribute with an invalid name"),
        (FILE, {"xattrs": {b"a\0b": b"x"}}, "an extended attribute with an invalid name"),
        (SPARSE, {"sparse": ((0, 300), (200, 0))}, "a sparse map whose pieces"),
        (SPARSE, {"sparse": ((0, 100), (50, 200))}, "a sparse map whose pieces"),
        (SPARSE, {"sparse": ((0, 100), (4900, 200))}, "a sparse map whose pieces"),
        (SPARSE, {"sparse": ((0, 100),)}, "a sparse map of another length"),
    ],
)
def test_what_scan_would_not_give(entry: Entry, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        check_entries([msgspec.structs.replace(entry, **changes)], SIZE)


@pytest.mark.parametrize(
    ("entries", "limits"),
    [
        ([FILE, FILE], Limits(entries=1)),
        ([SPARSE, SPARSE], Limits(sparse_pieces=3)),
        ([msgspec.structs.replace(FILE, xattrs={b"user.x": bytes(100)})], Limits(xattrs=100)),
    ],
)
def test_limits(entries: list[Entry], limits: Limits) -> None:
    with pytest.raises(LimitError, match="raise it with --limit"):
        check_entries(entries, SIZE, limits)


_NUMBERS = st.integers(-(2**64), 2**64) | st.integers(-1, 2000)


@given(
    st.builds(
        Entry,
        st.integers(-1, 8),
        st.binary(max_size=8),
        _NUMBERS,
        _NUMBERS,
        _NUMBERS,
        _NUMBERS,
        _NUMBERS,
        _NUMBERS,
        _NUMBERS,
        st.binary(max_size=8),
        st.tuples(_NUMBERS, _NUMBERS),
        st.dictionaries(st.binary(max_size=3), st.binary(max_size=3), max_size=2),
        st.none() | st.lists(st.tuples(_NUMBERS, _NUMBERS), max_size=3).map(tuple),
    )
)
def test_anything_passes_or_is_one_error(entry: Entry) -> None:
    with suppress(OcifsError):
        check_entries([entry], SIZE)
        assert entry.kind != REGULAR or 0 <= entry.offset <= entry.offset + entry.stored <= SIZE
