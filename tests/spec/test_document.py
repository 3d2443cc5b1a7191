import json
import time
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError, LimitError, OcifsError
from ocifs.limits import DEFAULT_LIMITS
from ocifs.spec.document import MAX_DEPTH, decode, parse_json, shown


class Sized(msgspec.Struct, frozen=True):
    size: int


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", InvalidImageError, "not valid JSON"),
        (b"{", InvalidImageError, "not valid JSON"),
        (b"{} {}", InvalidImageError, "Extra data"),
        (b"\xef\xbb\xbf{}", InvalidImageError, "BOM"),
        ("{}".encode("utf-16"), InvalidImageError, "not valid JSON"),
        (b'{"a": "\xff"}', InvalidImageError, "can't decode"),
        (b'{"a": NaN}', InvalidImageError, "NaN"),
        (b'{"a": Infinity}', InvalidImageError, "Infinity"),
        (b'{"a": -Infinity}', InvalidImageError, "-Infinity"),
        (b'{"a": 1, "a": 1}', InvalidImageError, "'a' occurs twice"),
        (b'{"a": 1, "\\u0061": null}', InvalidImageError, "'a' occurs twice"),
        (b'{"x": [{"\\u001b[2J": 1, "\\u001b[2J": 1}]}', InvalidImageError, r"\\x1b\[2J"),
        (b'{"a": "\\ud800"}', InvalidImageError, "surrogates"),
        (b'{"a": ' + b"9" * 5000 + b"}", InvalidImageError, "integer"),
        (b"[" * (MAX_DEPTH + 1), LimitError, "levels deep"),
        (b"[" * 100_000, LimitError, "levels deep"),
        (b'{"a":' * 100_000, LimitError, "levels deep"),
    ],
)
def test_refused(data: bytes, error: type[OcifsError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_json(data, "document x")
    assert str(caught.value).startswith("document x ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "data",
    [
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b"[" + b"{}," * 1000 + b"{}]",
        b'["' + b"[" * 1000 + b'"]',
        b'["\\"' + b"[" * 1000 + b'"]',
        b'"\\ud83d\\ude00"',
    ],
)
def test_accepted(data: bytes) -> None:
    assert parse_json(data, "x") == json.loads(data)


class Outer(msgspec.Struct, frozen=True, rename="pascal"):
    in_side: Sized | None = None
    many: tuple[Sized, ...] = ()
    labels: dict[str, str] = {}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"InSide": {"size": 1}}', Outer(Sized(1))),
        (b'{"inside": {"SIZE": 1}}', Outer(Sized(1))),
        (b'{"INSIDE": null, "MANY": [{"Size": 1}, {"size": 2}]}', Outer(None, (Sized(1), Sized(2)))),
        (b'{"LABELS": {"a": "1", "A": "2"}}', Outer(labels={"a": "1", "A": "2"})),
        (b'{"other": {"size": 1, "SIZE": 2}}', Outer()),
        ('{"in\u017fide": {"\u017fize": 1}}'.encode(), Outer(Sized(1))),
    ],
)
def test_the_case_of_a_name_does_not_matter(data: bytes, expected: Outer) -> None:
    assert decode(data, Outer, "x") == expected


@pytest.mark.parametrize("data", [b'{"Many": [], "many": []}', b'{"many": [{"size": 1, "SIZE": 1}]}'])
def test_a_name_in_two_cases_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImageError, match=r"document x is malformed: key '(Many|size)' occurs twice"):
        decode(data, Outer, "document x")


def test_null_is_absent() -> None:
    assert parse_json(b'{"a": null, "b": [{"c": null}]}', "x") == {"b": [{}]}


@pytest.mark.parametrize("unit", [b'"', b'\\"', b"[]", b'{"a":1},', b'"\\', b"]["])
def test_hostile_text_is_refused_fast(unit: bytes) -> None:
    """In a second or two of this process's own time: it would take hours if it were quadratic."""
    start = time.process_time()
    with pytest.raises(OcifsError):
        parse_json(unit * (DEFAULT_LIMITS.document // len(unit)), "x")
    assert time.process_time() - start < 60


@pytest.mark.parametrize("value", ["true", "1.0", "1e3", '"1"', "[]", "null"])
def test_only_integers_are_integers(value: str) -> None:
    with pytest.raises(InvalidImageError, match=r"document x is malformed.*size"):
        decode(f'{{"size": {value}}}'.encode(), Sized, "document x")


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_value_or_one_error(data: bytes) -> None:
    with suppress(OcifsError):
        decode(data, Sized, "x")


def test_shown_is_one_short_line() -> None:
    assert shown("a\nb\x1b\u202e\ud800") == r"a\nb\x1b\u202e\ud800"
    assert len(shown("x" * 10_000)) < 300
