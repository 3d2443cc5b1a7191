"""Write the checkpoints of a layer as a GZIDX file, for indexed_gzip and tools built on it."""

from ocifs.compression.gzidx import write_gzidx
from ocifs.errors import UnsupportedError
from ocifs.export.target import new_file
from ocifs.layer.index import LayerIndex


def export_gzidx(index: LayerIndex, target: str) -> None:
    """Write the new file `target`.

    Raises:
        UnsupportedError: The layer is not compressed with gzip, or is reframed.
        OcifsError: The target exists, or cannot be created.
    """
    summary = index.summary
    if summary.codec != "gzip":
        why = "its index holds a copy of it" if summary.reframed else f"it is {summary.codec}, not gzip"
        raise UnsupportedError(f"layer {summary.blob_digest} has no checkpoints of gzip: {why}")
    with new_file(target) as file:
        points = (index.checkpoint(span) for span in range(index.span_count))
        write_gzidx(file, summary.blob_size, summary.size, index.span_count, points)
