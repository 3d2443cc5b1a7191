"""Every target with its seeds, with cases found before, and with what hypothesis makes of them; by coverage if full."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.depth import FULL, depth
from tests.fuzz.targets import TARGETS, cases

_ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_found_cases(name: str) -> None:
    for case in cases(name):
        TARGETS[name].fuzz_one(case)


@st.composite
def changed(draw: st.DrawFn, begin: list[bytes]) -> bytes:
    """Return one of the beginnings with bytes replaced, put in, taken out or copied, or cut."""
    data = bytearray(draw(st.sampled_from(begin)))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(data)))
        how = draw(st.integers(0, 5))
        if how <= 1:
            new = draw(st.binary(min_size=1, max_size=8))
            data[place : place + len(new)] = new
        elif how == 2:
            data[place:place] = draw(st.binary(max_size=16))
        elif how == 3:
            del data[place : place + draw(st.integers(0, 600))]
        elif how == 4:
            data[place:place] = draw(st.sampled_from(begin))[draw(st.integers(0, 1024)) :][:1024]
        else:
            data[place : place + 1] = bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) if place < len(data) else b""
    return bytes(data[:16_384])


@pytest.mark.parametrize("name", TARGETS)
def test_changes(name: str) -> None:
    target = TARGETS[name]

    @given(st.one_of(changed(cases(name)), st.binary(max_size=200)))
    @settings(max_examples=depth(600, 50_000), deadline=None, suppress_health_check=list(HealthCheck))
    def run(data: bytes) -> None:
        target.fuzz_one(data)

    run()


if FULL:

    @pytest.mark.parametrize("name", TARGETS)
    def test_by_coverage(name: str, tmp_path: Path) -> None:
        ran = subprocess.run([_ROOT / "scripts/fuzz", name, "600"], cwd=tmp_path, capture_output=True, check=False)
        assert ran.returncode == 0, ran.stderr[-4000:]
        assert list(tmp_path.glob("crash-*")) == []
