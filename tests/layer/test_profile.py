"""Profiles: runs of spans, of whatever index."""

from itertools import combinations_with_replacement
from pathlib import Path
from random import Random

import pytest

from ocifs.image.opening import open_image
from ocifs.layer.index import LayerIndex
from ocifs.layer.profile import Run, join_spans, run_of, spans_of
from ocifs.options import Options
from ocifs.store import Store
from tests.images import Image, Layer, tar, write_layout


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> LayerIndex:
    """An index of spans of less than a mebibyte each."""
    layer = Layer(tar({f"file{number}": bytes(1_000_000) for number in range(8)}), "tar")
    layout = write_layout(tmp_path_factory.mktemp("layout"), Image((layer,)))
    (index,) = open_image(Path(layout), Options(store=Store(None))).indexes
    return index


def test_a_run_says_which_bytes_it_is_of(index: LayerIndex) -> None:
    run = run_of(index, 1, 2)
    assert (run.start_span, run.end_span, run.start, run.end) == (1, 2, index.starts[1], index.starts[3])
    assert spans_of([run], index) == ((1, 2),)


def test_a_run_of_an_index_is_found_again_in_it(tmp_path: Path) -> None:
    """In a gzip blob spans begin inside of bytes."""
    noise = Random(1)
    content: dict[str, bytes | None] = {f"{number}": noise.randbytes(150_000).hex().encode() for number in range(20)}
    layout = write_layout(tmp_path, Image((Layer(tar(content), "gzip"),)))
    with open_image(layout, Options(store=Store(None))) as image:
        (index,) = image.indexes
        assert index.span_count > 4
        assert any(index.summary.bits)
        for first, last in combinations_with_replacement(range(index.span_count), 2):
            assert spans_of([run_of(index, first, last)], index) == ((first, last),)


def test_bytes_count_before_the_spans_of_another_index(index: LayerIndex) -> None:
    start, border = index.starts[2], index.starts[3]
    assert spans_of([Run(70, 80, start, border)], index) == ((2, 2),)
    assert spans_of([Run(70, 80, start + 1, border + 1)], index) == ((2, 3),)
    assert spans_of([Run(70, 80, 0, index.size)], index) == ((0, index.span_count - 1),)


@pytest.mark.parametrize(
    ("run", "spans"),
    [
        (Run(1, 2), ((1, 2),)),
        (Run(-5, 1), ((0, 1),)),
        (Run(2, 1), ()),
        (Run(900, 1000), ()),
        (Run(0, 0, 10, 10), ((0, 0),)),
        (Run(0, 0, -1, 10), ((0, 0),)),
        (Run(0, 0, 0, 1 << 62), ((0, 0),)),
        (Run(-(1 << 63), (1 << 63) - 1), ((0, -1),)),
    ],
)
def test_runs_that_cannot_be(index: LayerIndex, run: Run, spans: tuple[tuple[int, int], ...]) -> None:
    last = index.span_count - 1
    assert spans_of([run], index) == tuple((first, end % (last + 1)) for first, end in spans)


def test_runs_are_bounded(index: LayerIndex) -> None:
    assert len(spans_of([Run(0, 1)] * 5000, index)) == 1000


@pytest.mark.parametrize(
    ("spans", "joined"),
    [
        ([], []),
        ([5], [(5, 5)]),
        ([5, 6, 7], [(5, 7)]),
        ([7, 6, 5], [(5, 7)]),
        ([5, 7], [(5, 7)]),
        ([5, 8], [(5, 5), (8, 8)]),
        ([20, 1, 2, 21], [(20, 21), (1, 2)]),
    ],
)
def test_neighbours_are_joined_in_order_of_first_use(spans: list[int], joined: list[tuple[int, int]]) -> None:
    assert join_spans(spans) == joined
