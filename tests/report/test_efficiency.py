"""The efficiency is what dive tells of the same layers."""

import posixpath
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.report.efficiency import Efficiency, efficiency
from ocifs.toc import DIRECTORY, HARDLINK, REGULAR, Entry


def _entry(path: bytes, size: int | None = None) -> Entry:
    kind = DIRECTORY if size is None else REGULAR
    return Entry(kind=kind, path=path, mode=0o644, uid=0, gid=0, mtime_ns=0, size=size or 0)


def test_the_example_of_dive_s_own_test() -> None:
    layers = [
        [_entry(b"etc/nginx/nginx.conf", 2000), _entry(b"etc/nginx/public", 3000)],
        [_entry(b"etc/nginx/nginx.conf", 5000), _entry(b"etc/athing", 10000)],
        [_entry(b"etc/.wh.nginx", 0)],
    ]
    assert efficiency(layers) == Efficiency(0.75, 7000, 15000)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([], (1.0, 0)),
        ([[_entry(b"nothing", 0)]], (1.0, 0)),
        ([[_entry(b"a", 10)], [_entry(b"a", 10)]], (0.5, 20)),
        ([[_entry(b"a", 10)], [_entry(b".wh.a", 0)]], (0.0, 10)),
        ([[_entry(b"a", 10)], [_entry(b"./a/", 5)], [_entry(b"/x/../a", 5)]], (0.25, 20)),
        # A directory that is removed counts as what it held, for its own path.
        ([[_entry(b"d"), _entry(b"d/a", 10)], [_entry(b"d/.wh.a", 0)], [_entry(b".wh.d", 0)]], (0.0, 10)),
        ([[_entry(b"d"), _entry(b"d/a", 10)], [_entry(b".wh.d", 0)]], (1.0, 0)),
        ([[_entry(b"d"), _entry(b"d/a", 10)], [_entry(b".wh.d", 0)], [_entry(b"d")]], (0.5, 10)),
        # Opaque whiteouts and AUFS metadata are not looked at.
        ([[_entry(b"d/a", 10)], [_entry(b"d/.wh..wh..opq", 0)]], (1.0, 0)),
        ([[_entry(b"a", 10)], [_entry(b".wh..wh.plnk/a", 10)]], (1.0, 0)),
        # A whiteout of nothing gives nothing.
        ([[_entry(b"a", 10)], [_entry(b".wh.b", 0)]], (1.0, 0)),
        # A hard link has no bytes.
        ([[_entry(b"a", 10)], [Entry(kind=HARDLINK, path=b"a", mode=0, uid=0, gid=0, mtime_ns=0)]], (0.0, 10)),
    ],
)
def test_cases(layers: list[list[Entry]], expected: tuple[float, int]) -> None:
    found = efficiency(layers)
    assert (found.score, found.wasted_bytes) == expected


def test_user_wasted() -> None:
    assert efficiency([[_entry(b"a", 10)], [_entry(b"a", 10), _entry(b"b", 30)]]).user_wasted == 0.5
    assert efficiency([[_entry(b"a", 10)]]).user_wasted == 0.0


def _naive(layers: Sequence[Sequence[Entry]]) -> tuple[float, int]:
    """Do as the definition says, on dicts of paths, without any care for speed."""
    seen: dict[bytes, list[int]] = {}
    stacked: dict[bytes, Entry] = {}
    for entries in layers:
        layer = {posixpath.normpath(entry.path): entry for entry in entries}
        removed = []
        for path, entry in layer.items():
            if any(other.startswith(path + b"/") for other in layer):
                continue
            directory, _, name = path.rpartition(b"/")
            size = entry.size
            if name.startswith(b".wh."):
                gone = posixpath.join(directory, name[4:])
                removed.append(gone)
                below = [other.size for at, other in stacked.items() if (at + b"/").startswith(gone + b"/")]
                size = sum(below) if gone in stacked and stacked[gone].kind == DIRECTORY else 0
            seen.setdefault(removed[-1] if name.startswith(b".wh.") else path, []).append(size)
        for path in removed:
            stacked = {at: entry for at, entry in stacked.items() if not (at + b"/").startswith(path + b"/")}
        stacked |= {path: entry for path, entry in layer.items() if b".wh." not in path}
    total = sum(map(sum, seen.values()))
    return (
        sum(map(min, seen.values())) / total if total else 1.0,
        sum(sum(sizes) for sizes in seen.values() if len(sizes) > 1),
    )


_ENTRY = st.one_of(
    st.builds(_entry, st.sampled_from([b"a", b"d/a", b"d/b", b"d/e/a", b"./d/e/b"]), st.integers(0, 9)),
    st.builds(_entry, st.sampled_from([b"d", b"d/e", b"d/", b"f"])),
    st.builds(_entry, st.sampled_from([b".wh.a", b"d/.wh.a", b"d/.wh.e", b".wh.d", b".wh.f"]), st.just(0)),
)


@given(st.lists(st.lists(_ENTRY, max_size=6), max_size=5))
def test_as_the_naive_model(layers: list[list[Entry]]) -> None:
    found = efficiency(layers)
    assert (found.score, found.wasted_bytes) == pytest.approx(_naive(layers))
