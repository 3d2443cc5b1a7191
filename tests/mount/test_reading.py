"""Decoding ahead of a reader: more and more while it is sequential; the next span while a processor is idle."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocifs.compression import SPACING
from ocifs.image.opening import open_image
from ocifs.layer.layer import Layer
from ocifs.mount.idle import has_idle_processor, running
from ocifs.mount.reading import Reading
from tests.images import Image, write_layout
from tests.images import Layer as ImageLayer
from tests.tars import file, tar
from tests.waiting import wait_for

SPANS = 40
TAR = tar([file(b"f", random.Random(1).randbytes(SPANS * SPACING))])


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("reading") / "image", Image(layers=(ImageLayer(TAR, "tar"),)))


@contextmanager
def reading(layout: Path, *, is_idle: bool = False) -> Iterator[tuple[Reading, Layer, int]]:
    """Yield the reading of an image, its layer, and the address of the layer."""
    with open_image(layout) as image:
        found = Reading(image.rootfs.served, timeout=60, is_idle=lambda: is_idle)
        yield found, image.layers[0], image.rootfs.tree.bases[0]
        found.close()


def read(found: Reading, size: int, address: int) -> None:
    """Read as the kernel does, and wait for the bytes."""
    answers: list[object] = []
    if found.at_hand(size, address) is None:
        found.fetch([(size, address)], answers.append)
        wait_for(lambda: bool(answers))
        assert not isinstance(answers[0], Exception)


def read_in(found: Reading, size: int, layer: Layer, span: int, base: int) -> None:
    """Read the last bytes of a span."""
    read(found, size, base + layer.index.starts[span + 1] - size)


def decoded(layer: Layer) -> list[int]:
    return [span for span in range(layer.index.span_count) if layer.is_decoded(span)]


@pytest.mark.parametrize("is_idle", [False, True])
def test_a_random_reader_has_nothing_decoded_but_its_spans(layout: Path, *, is_idle: bool) -> None:
    with reading(layout, is_idle=is_idle) as (found, layer, base):
        for span in (7, 3, 20, 9):
            read_in(found, 4096, layer, span, base)
        assert decoded(layer) == [3, 7, 9, 20]


def test_the_next_span_is_decoded_while_a_processor_is_idle(layout: Path) -> None:
    with reading(layout, is_idle=True) as (found, layer, base):
        for span in (7, 20, 30):
            read_in(found, 32 << 10, layer, span, base)
        wait_for(lambda: decoded(layer) == [7, 8, 20, 21, 30, 31])
    with reading(layout, is_idle=False) as (found, layer, base):
        for span in (7, 20, 30):
            read_in(found, 32 << 10, layer, span, base)
        assert decoded(layer) == [7, 20, 30]


def test_more_is_decoded_ahead_while_the_reader_is_sequential(layout: Path) -> None:
    with reading(layout) as (found, layer, base):
        read_in(found, 4096, layer, 0, base)
        assert decoded(layer) == [0]
        read_in(found, 4096, layer, 1, base)
        wait_for(lambda: decoded(layer) == [0, 1, 2])
        for span in range(2, 10):
            read_in(found, 4096, layer, span, base)
        ahead = min(2 * (os.cpu_count() or 1), 16) * (1 << 20) // SPACING
        runs = (1 << 20) // SPACING  # less than a run waits until it is worth a thread
        wait_for(lambda: len(decoded(layer)) > min(9 + ahead - runs, SPANS))
        wait_for(lambda: decoded(layer) == list(range(decoded(layer)[-1] + 1)))
        assert decoded(layer)[-1] <= 9 + ahead + 1


def test_a_sequential_reader_gets_all_bytes(layout: Path) -> None:
    with reading(layout) as (found, _, base):
        got = []
        for offset in range(0, len(TAR), 100_000):
            size = min(100_000, len(TAR) - offset)
            if (views := found.at_hand(size, base + offset)) is None:
                read(found, size, base + offset)
                views = found.served.views(size, base + offset)
            got.append(b"".join(views))
        assert b"".join(got) == TAR


@pytest.mark.parametrize(("threads", "expected"), [(1, True), (2, False), (9, False)])
def test_a_processor_is_idle_if_fewer_threads_run(threads: int, *, expected: bool) -> None:
    assert has_idle_processor(lambda: threads, processors=2) is expected


def test_this_thread_runs() -> None:
    assert running() >= 1


@pytest.mark.parametrize("error", [FileNotFoundError(), ValueError(), IndexError()])
def test_without_proc_no_processor_is_idle(error: Exception) -> None:
    def fail() -> int:
        raise error

    assert not has_idle_processor(fail)
