"""What somebody who starts reads first of a layer: SOCI's prefetch document, which other indexes can use too.

A run of spans is of the index that it was recorded with. Members of our own say besides which bytes of the blob these
are, so that another index of the same layer, whose spans begin elsewhere, finds its own. A profile is a hint: of one
that is wrong the worst is that something is fetched that nobody wants.
"""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from ocifs.layer.index import LayerIndex

_MAX_RUNS = 1000


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """Spans that follow each other, and the bytes of the blob from `start` to `end`, if these are known."""

    start_span: int
    end_span: int
    """The last one."""
    start: int = 0
    end: int = 0


class Prefetch(msgspec.Struct, frozen=True, kw_only=True):
    """The document of a layer."""

    version: str
    prefetch_spans: tuple[Run, ...] = ()


Profile = dict[str, tuple[Run, ...]]
"""By the digest of a layer's blob: what is wanted, in order."""


def run_of(index: "LayerIndex", first: int, last: int) -> Run:
    """Return a run of an index."""
    return Run(first, last, *index.stored_bytes(first, last))


def runs_of(runs: Iterable[Run], index: "LayerIndex") -> tuple[Run, ...]:
    """Return runs of an index, whatever index the given ones are of."""
    return tuple(run_of(index, *spans) for spans in spans_of(runs, index))


def spans_of(runs: Iterable[Run], index: "LayerIndex") -> tuple[tuple[int, int], ...]:
    """Return the runs as (first, last) spans of an index; only those that there are."""
    found = [_spans(run, index) for run in islice(runs, _MAX_RUNS)]
    return tuple((first, last) for first, last in found if first <= last)


def _spans(run: Run, index: "LayerIndex") -> tuple[int, int]:
    if 0 <= run.start < run.end <= index.summary.blob_size:
        return index.spans_stored_in(run.start, run.end)
    return max(run.start_span, 0), min(run.end_span, index.span_count - 1)
