import base64
import gzip
import io
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError, LimitError
from ocifs.tarsplit.entries import MAX_RAW, Content, Raw, TarSplitEntry, crc64, decode, encode

_NAMES = st.binary(min_size=1, max_size=20)
_ENTRIES = st.lists(
    st.builds(Raw, st.binary(min_size=1, max_size=50))
    | st.builds(Content, _NAMES, st.integers(1, (1 << 63) - 1), st.integers(0, (1 << 64) - 1))
    | st.builds(Content, _NAMES, st.just(0), st.none())
)


def _decoded(data: bytes, max_total: int = 1 << 20) -> list[TarSplitEntry]:
    return [*decode(io.BytesIO(data), "x.tar-split.gz", max_total)]


def _lines(*lines: object) -> bytes:
    return gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines), mtime=0)


@given(_ENTRIES)
def test_what_was_encoded_is_decoded(entries: list[TarSplitEntry]) -> None:
    assert _decoded(b"".join(encode(entries))) == entries


def test_the_lines_are_those_of_the_go_library() -> None:
    entries: list[TarSplitEntry] = [Raw(b"header"), Content(b"a/b", 5, 0x0102030405060708), Content(b"\xff", 0, None)]
    lines = gzip.decompress(b"".join(encode(entries))).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"type": 2, "payload": base64.b64encode(b"header").decode(), "position": 0},
        {"type": 1, "name": "a/b", "size": 5, "payload": "AQIDBAUGBwg=", "position": 1},
        {"type": 1, "name_raw": "/w==", "payload": None, "position": 2},
    ]


def test_the_checksum_is_crc_64_go_iso() -> None:
    # The check value of CRC-64/GO-ISO in the catalogue of parametrised CRC algorithms (reveng).
    assert crc64(b"123456789") == 0xB90956C775A41001
    assert crc64(b"6789", crc64(b"12345")) == crc64(b"123456789")


def test_a_long_raw_entry_is_split() -> None:
    entries = _decoded(b"".join(encode([Raw(bytes(MAX_RAW + 1))])), 4 * MAX_RAW)
    assert [len(entry.data) for entry in entries if isinstance(entry, Raw)] == [MAX_RAW, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not gzip", "not a complete gzip file"),
        (_lines({"type": 2, "payload": "AAAA"})[:-9], "not a complete gzip file"),
        (gzip.compress(b"{", mtime=0), "malformed entry"),
        (gzip.compress(b'{"type":2,"payload":"AA', mtime=0), "malformed entry"),
        (_lines([]), "malformed entry"),
        (_lines({"type": 2, "payload": "?"}), "malformed entry"),
        (_lines({"type": 2, "payload": "Aé"}), "malformed entry"),
        (_lines({"type": 3, "payload": ""}), "entry of unknown type 3"),
        (_lines({"type": 1, "size": 1, "payload": "AQIDBAUGBwg="}), "no name"),
        (_lines({"type": 1, "name": "a", "size": -1, "payload": "AQIDBAUGBwg="}), "the size -1"),
        (_lines({"type": 1, "name": "a", "size": 1 << 63, "payload": "AQIDBAUGBwg="}), "size"),
        (_lines({"type": 1, "name": "a", "size": 1, "payload": "AQI="}), "a checksum of 2 bytes"),
        (_lines({"type": 1, "name": "a", "size": 1}), "a checksum of 0 bytes"),
    ],
)
def test_a_malformed_file_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message) as raised:
        _decoded(data)
    assert str(raised.value).startswith("x.tar-split.gz: ")


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    line = gzip.compress(bytes(64 << 20), 1)
    with pytest.raises(LimitError, match="an entry has more than"):
        _decoded(line, 1 << 40)
    many = _lines(*[{"type": 2, "payload": base64.b64encode(bytes(1000)).decode()}] * 100)
    with pytest.raises(LimitError, match="more than 10000 bytes"):
        _decoded(many, 10000)


def test_entries_before_the_damage_are_read() -> None:
    def entries() -> Iterator[TarSplitEntry]:
        yield from decode(io.BytesIO(_lines({"type": 2, "payload": "AA=="}, {"type": 9})))

    reading = entries()
    assert next(reading) == Raw(b"\0")
    with pytest.raises(InvalidImageError):
        next(reading)
