"""A recording: which reads belong to the start, and what they touched."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ocifs.hotpack.recording import QUIET, Range, Recording, beside, ranges

PAGE = 4096
MIB = 1 << 20
BASES = [MIB, 2 * MIB]
SIZES = [10 * PAGE + 100, 5 * PAGE]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_reads_of_the_layers_are_noted_up_to_the_limit() -> None:
    recording = Recording(MIB, 3 * PAGE)
    for size, address in [(PAGE, 0), (PAGE, MIB), (4 * PAGE, MIB + PAGE), (PAGE, MIB + 9 * PAGE)]:
        recording.note(size, address)
    assert recording.reads == [(MIB, PAGE), (MIB + PAGE, 4 * PAGE)]
    assert recording.is_full()
    recording.wait()  # at once


def test_a_recording_is_over_after_a_pause() -> None:
    clock = Clock()
    recording = Recording(MIB, MIB, clock)
    recording.note(1, MIB)
    clock.now += QUIET
    recording.wait()
    assert not recording.is_full()


def test_a_recording_is_over_after_a_minute() -> None:
    clock = Clock()
    recording = Recording(MIB, MIB, clock)
    recording.note(1, MIB)
    clock.now += 60
    recording.note(1, MIB)
    recording.wait()


def test_a_read_that_waits_for_its_bytes_is_no_pause() -> None:
    """As one that waits for a slow registry: its program has not paused."""
    clock = Clock()
    recording = Recording(MIB, MIB, clock)
    recording.note(1, MIB)
    recording.begin_wait()
    clock.now += 10 * QUIET
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(recording.wait)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        recording.end_wait()
        recording.note(1, MIB)
        clock.now += QUIET
        waiting.result(60)
    assert len(recording.reads) == 2


def test_a_read_that_waits_for_ever_ends_a_recording_after_a_minute() -> None:
    clock = Clock()
    recording = Recording(MIB, MIB, clock)
    recording.note(1, MIB)
    recording.begin_wait()
    clock.now += 60
    recording.wait()


def test_a_recording_without_reads_can_be_ended() -> None:
    recording = Recording(MIB, MIB)
    recording.end()
    recording.wait()
    assert recording.reads == []


@pytest.mark.parametrize(
    ("reads", "skip", "found"),
    [
        ([], [], []),
        ([(MIB + 10, 1)], [], [(0, 0, PAGE)]),
        ([(MIB + PAGE, PAGE), (MIB, PAGE)], [], [(0, PAGE, 2 * PAGE), (0, 0, PAGE)]),
        ([(MIB, 2 * PAGE), (MIB + PAGE, 2 * PAGE)], [], [(0, 0, 3 * PAGE)]),
        ([(MIB, PAGE), (MIB, PAGE)], [], [(0, 0, PAGE)]),
        ([(MIB + 10 * PAGE, PAGE)], [], [(0, 10 * PAGE, SIZES[0])]),
        ([(MIB + 20 * PAGE, PAGE)], [], []),
        ([(0, PAGE)], [], []),
        ([(MIB - PAGE, 2 * PAGE)], [], [(0, 0, PAGE)]),
        ([(2 * MIB - PAGE, 2 * PAGE)], [], [(1, 0, PAGE)]),
        ([(MIB, 3 * PAGE)], [(0, PAGE, 2 * PAGE)], [(0, 0, PAGE), (0, 2 * PAGE, 3 * PAGE)]),
        ([(MIB, 3 * PAGE)], [(1, 0, 3 * PAGE), (0, 0, 3 * PAGE)], []),
    ],
)
def test_pages_are_found_once_in_order_of_first_use(
    reads: list[tuple[int, int]], skip: list[Range], found: list[Range]
) -> None:
    assert ranges(reads, BASES, SIZES, skip) == found


def test_small_gaps_and_what_follows_are_read_as_well() -> None:
    small, large, behind = 64 << 10, (64 << 10) + 1, 32 << 10
    sizes = [700_000, 200_100]
    found = [(0, 500_000, 600_000), (0, 0, 4096), (1, 0, 100)]
    skip = [(0, 4096 + small, 100_000), (1, 100 + large, 200_000), (1, 200_000, 200_001)]
    after = [(0, 600_000, 600_000 + behind), (1, 100, 100 + behind)]
    assert beside(found, sizes, skip) == [(0, 4096, 4096 + small), *after]
    assert beside(found, sizes) == [(0, 4096, 4096 + behind), *after]
    assert beside([(1, 0, 200_000)], sizes) == [(1, 200_000, 200_100)]
    assert beside([], sizes, skip) == []
