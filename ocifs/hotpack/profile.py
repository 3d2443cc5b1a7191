"""The spans that contain the blocks of a hot pack, for formats that can only list spans to fetch first."""

from collections.abc import Sequence

from ocifs.hotpack.format import PackTable
from ocifs.layer.layer import Layer
from ocifs.layer.profile import Profile, join_spans, run_of


def profile_of(table: PackTable, layers: Sequence[Layer]) -> Profile:
    """Return the runs of spans, in order of first use."""
    spans: dict[int, dict[int, None]] = {}
    for frame in table.frames:
        for block in frame.blocks:
            index = layers[block.layer].index
            numbers = range(index.span_at(block.offset), index.span_at(block.end - 1) + 1)
            spans.setdefault(block.layer, {}).update(dict.fromkeys(numbers))
    return {
        layers[number].index.summary.blob_digest: tuple(
            run_of(layers[number].index, first, last) for first, last in join_spans(numbers)
        )
        for number, numbers in spans.items()
    }
