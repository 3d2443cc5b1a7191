"""The parts of a file that head and tail print, against a model that splits all of it."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.report.parts import Part, read_part

LONG = b"".join(b"%d " % n * (n % 9) + b"\n" * (n % 3 > 0) for n in range(9000))


def model(data: bytes, part: Part) -> bytes:
    units = data.splitlines(keepends=True) if part.unit == "lines" else [data[i : i + 1] for i in range(len(data))]
    place = max(0, len(units) - part.number) if part.end else part.number
    return b"".join(units[:place] if part.end == part.rest else units[place:])


class Counted(io.BytesIO):
    """Counts the bytes that are read."""

    read_bytes = 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = super().readinto(buffer)
        self.read_bytes += size
        return size


PARTS = st.builds(Part, st.sampled_from(["lines", "bytes"]), st.integers(0, 12), end=st.booleans(), rest=st.booleans())


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n"])).map(b"".join), PARTS)
def test_every_part(data: bytes, part: Part) -> None:
    assert b"".join(read_part(io.BufferedReader(io.BytesIO(data)), part)) == model(data, part)


@pytest.mark.parametrize("number", [1, 100, 5000, 5999, 6000, 99999])
@pytest.mark.parametrize("rest", [False, True])
def test_long_files(number: int, rest: bool) -> None:
    for unit in ("lines", "bytes"):
        for end in (False, True):
            part = Part(unit, number, end=end, rest=rest)
            assert b"".join(read_part(io.BufferedReader(io.BytesIO(LONG)), part)) == model(LONG, part)


def test_the_last_lines_are_read_from_the_end() -> None:
    file = Counted(b"line\n" * 1_000_000)
    part = Part("lines", 3, end=True)
    assert b"".join(read_part(io.BufferedReader(file, 4096), part)) == b"line\n" * 3
    assert file.read_bytes < 100_000
