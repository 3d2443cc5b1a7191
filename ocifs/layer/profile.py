"""The spans that an image reads first when it starts: SOCI's prefetch document, usable with other indexes too.

A run of spans refers to the index that it was recorded with. Our own extra members state the stored bytes as well, so
that another index of the same layer, with other spans, can find its own. A profile is a hint: a wrong one costs
needless fetches at worst.
"""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from ocifs.layer.index import LayerIndex

_MAX_RUNS = 1000
_GAP = 1


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """Consecutive spans, and their stored bytes from `start` to `end`, if known."""

    start_span: int
    end_span: int
    """The last span."""
    start: int = 0
    end: int = 0


class Prefetch(msgspec.Struct, frozen=True, kw_only=True):
    """The prefetch document of a layer."""

    version: str
    prefetch_spans: tuple[Run, ...] = ()


Profile = dict[str, tuple[Run, ...]]
"""By the digest of a layer's blob: the runs to prefetch, in order."""


def run_of(index: "LayerIndex", first: int, last: int) -> Run:
    """Return a run with the stored range in an index."""
    return Run(first, last, *index.stored_bytes(first, last))


def spans_of(runs: Iterable[Run], index: "LayerIndex") -> tuple[tuple[int, int], ...]:
    """Convert runs to (first, last) spans of an index, without those that it does not have."""
    found = [_spans(run, index) for run in islice(runs, _MAX_RUNS)]
    return tuple((first, last) for first, last in found if first <= last)


def join_spans(spans: Iterable[int]) -> list[tuple[int, int]]:
    """Join spans whose gap costs less to fetch than a round trip; order the ranges by their first use."""
    order = {number: position for position, number in enumerate(spans)}
    ranges: list[list[int]] = []
    for number in sorted(order):
        if ranges and number - ranges[-1][1] <= _GAP + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    first_use = {first: min(order.get(n, len(order)) for n in range(first, last + 1)) for first, last in ranges}
    return sorted(((first, last) for first, last in ranges), key=lambda each: first_use[each[0]])


def _spans(run: Run, index: "LayerIndex") -> tuple[int, int]:
    if 0 <= run.start < run.end <= index.summary.blob_size:
        return index.spans_stored_in(run.start, run.end)
    return max(run.start_span, 0), min(run.end_span, index.span_count - 1)
