import pytest

from ocifs.spec.rfc3339 import format_time, parse_time


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2001-09-09T01:46:40.5+02:00", 999_992_800_500_000_000),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("2020-02-29T23:59:59-23:59", 1_583_107_139_000_000_000),
        ("9999-12-31T23:59:59Z", 2**63 - 1),
        ("0001-01-01T00:00:00Z", -(2**63)),
    ],
)
def test_times(text: str, nanoseconds: int) -> None:
    assert parse_time(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2020-01-01",
        "2020-01-01T00:00:00",
        "2020-01-01 00:00:00Z",
        "2020-01-01T00:00:00.Z",
        "2020-01-01T00:00:00.1234567891Z",
        "2020-01-01T24:00:00Z",
        "2020-01-01T00:00:60Z",
        "2020-01-01T00:00:00+24:00",
        "2021-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "\u0662020-01-01T00:00:00Z",
    ],
)
def test_other_forms(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller writes the message
        parse_time(text)


@pytest.mark.parametrize("nanoseconds", [0, -1, 1_600_000_000_000_000_000, 2**63 - 1, -(2**63)])
def test_what_is_written_can_be_read(nanoseconds: int) -> None:
    assert parse_time(format_time(nanoseconds)) == nanoseconds
