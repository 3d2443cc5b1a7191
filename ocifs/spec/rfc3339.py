"""Times in the form of RFC 3339, as nanoseconds since the epoch."""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)T([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?(?:Z|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)


@lru_cache(4096)
def parse_time(text: str) -> int:
    """Return nanoseconds since the epoch, clamped to a signed 64-bit number. Raises ValueError for another form."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(text)
    day, hour, minute, second, fraction, sign, hours, minutes = match.groups()
    days = date.fromisoformat(day).toordinal() - _EPOCH.toordinal()
    seconds = days * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second)
    if sign:
        east = int(hours) * 3600 + int(minutes) * 60
        seconds -= east if sign == "+" else -east
    return max(-(2**63), min(seconds * 10**9 + int((fraction or "").ljust(9, "0")), 2**63 - 1))


def format_time(nanoseconds: int) -> str:
    """Return a time in UTC, with a fraction of nine digits unless it is zero."""
    seconds, fraction = divmod(nanoseconds, 10**9)
    text = f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}"
    return f"{text}.{fraction:09}Z" if fraction else f"{text}Z"
