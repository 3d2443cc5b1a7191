"""The memory for spans is bounded, no view of a span ever changes, and slots without readers are reused."""

import random
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from ocifs.layer.span_memory import SLOT, SpanMemory


def joined(pieces: tuple[memoryview | bytes, ...]) -> bytes:
    return b"".join(pieces)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.one_of(st.tuples(st.just("keep"), st.integers(0, 5 * SLOT)), st.tuples(st.just("drop"), st.integers(0, 9)))
    )
)
def test_views_keep_their_bytes_and_slots_are_used_again(actions: list[tuple[str, int]]) -> None:
    memory = SpanMemory(8 * SLOT)
    kept: list[tuple[bytes, tuple[memoryview | bytes, ...]]] = []
    for number, (action, value) in enumerate(actions):
        if action == "keep":
            data = bytes([number % 251]) * value
            kept.append((data, memory.keep(data)))
        elif kept:
            del kept[value % len(kept)]
        assert all(joined(pieces) == data for data, pieces in kept)
        assert memory.used == SLOT * sum(_slots(pieces) for _, pieces in kept) <= 9 * SLOT
    kept.clear()
    assert _slots(memory.keep(bytes(9 * SLOT))) == 9  # all of them are free


def _slots(pieces: tuple[memoryview | bytes, ...]) -> int:
    return sum(isinstance(piece, memoryview) for piece in pieces)


def test_a_view_that_a_reader_still_has_outlives_its_span() -> None:
    memory = SpanMemory(SLOT)
    (view,) = memory.keep(b"one" * 1000)
    part = memoryview(view)[3:6]
    del view
    assert memory.keep(b"two") == (b"two",)  # no slot is free: it stays in the heap
    assert bytes(part) == b"one"
    assert part.readonly
    del part
    assert isinstance(memory.keep(b"three")[0], memoryview)


def test_the_memory_of_free_slots_goes_back_to_the_system() -> None:
    memory = SpanMemory(4 * SLOT)
    (view,) = memory.keep(b"stays" * 100)
    memory.keep(b"x" * SLOT * 3)
    memory.release()
    assert view == b"stays" * 100
    assert [len(piece) for piece in memory.keep(bytes(3 * SLOT))] == [SLOT] * 3
    assert memory.keep(b"again") == (b"again",)


def test_threads_never_get_the_same_slot() -> None:
    memory = SpanMemory(16 * SLOT)
    wrong: list[int] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(300):
            data = bytes([seed, number % 256]) * chance.randrange(1, SLOT)
            pieces = memory.keep(data)
            if joined(pieces) != data:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memory.used == 0
