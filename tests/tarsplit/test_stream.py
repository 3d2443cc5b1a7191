import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError, LimitError
from ocifs.tarsplit.entries import Content, Raw, decode, encode
from ocifs.tarsplit.stream import MemberRange, assemble, disassemble
from tests import tars

_FILES = {b"a": b"x" * 700, b"d/b": b"y" * 512, b"\xff": b"z"}
_STREAM = tars.tar(tars.file(name, data) for name, data in _FILES.items()) + bytes(3000)


def _ranges() -> list[MemberRange]:
    with tarfile.open(fileobj=io.BytesIO(_STREAM), encoding="utf-8", errors="surrogateescape") as archive:
        return [
            MemberRange(each.offset_data, each.size, each.name.encode("utf-8", "surrogateescape")) for each in archive
        ]


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(st.integers(1, 5000), st.sets(st.integers(0, 2)))
def test_a_stream_is_made_again_of_its_entries(chunk: int, kept: set[int]) -> None:
    ranges = [each for number, each in enumerate(_ranges()) if number in kept]
    entries = [*disassemble(_cut(_STREAM, chunk), ranges, 1 << 20)]
    assert [entry.name for entry in entries if isinstance(entry, Content)] == [each.name for each in ranges]
    stored = b"".join(encode(entries))
    assert b"".join(assemble(decode(io.BytesIO(stored)), lambda entry: [_FILES[entry.name]])) == _STREAM


def test_the_bytes_of_files_are_not_in_it() -> None:
    entries = [*disassemble([_STREAM], _ranges(), 1 << 20)]
    assert b"x" * 10 not in b"".join(entry.data for entry in entries if isinstance(entry, Raw))


@pytest.mark.parametrize("data", [b"x" * 699, b"x" * 701, b"x" * 699 + b"y", b""])
def test_a_changed_file_is_refused(data: bytes) -> None:
    entries = [*disassemble([_STREAM], _ranges(), 1 << 20)]
    with pytest.raises(InvalidImageError, match="file 'a' is not what it was"):
        b"".join(assemble(entries, lambda entry: [data] if entry.name == b"a" else [_FILES[entry.name]]))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([MemberRange(len(_STREAM), 1, b"late")], "'late' lies beyond the end"),
        ([MemberRange(len(_STREAM) - 1, 2, b"late")], "'late' lies beyond the end"),
        ([MemberRange(0, 10, b"a"), MemberRange(9, 10, b"b")], "'b' overlaps"),
    ],
)
def test_ranges_that_are_not_in_the_stream_are_refused(ranges: list[MemberRange], message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        list(disassemble([_STREAM], ranges, 1 << 20))


def test_raw_bytes_are_limited() -> None:
    with pytest.raises(LimitError, match="more than 1000 bytes"):
        list(disassemble([_STREAM], [], 1000))
