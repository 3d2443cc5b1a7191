"""What the index of an image contains and costs."""

import msgspec

from ocifs.errors import counted
from ocifs.image.opening import Image
from ocifs.report.text import human_size, table


class LayerReport(msgspec.Struct, frozen=True, kw_only=True):
    """A layer's index. Sizes are bytes."""

    digest: str
    diff_id: str
    media_type: str
    size: int
    uncompressed: int
    entries: int
    spans: int
    index_size: int
    reframed: bool
    """Whether the index holds a copy of the layer, because the layer has no restart points."""


class IndexReport(msgspec.Struct, frozen=True, kw_only=True):
    """An image's index."""

    image: str
    digest: str
    layers: list[LayerReport]
    inodes: int
    tree_image_size: int
    seconds: float


def index_report(image: Image, seconds: float) -> IndexReport:
    """Describe the index of an image that took `seconds` to open."""
    layers = [
        LayerReport(
            digest=str(layer.descriptor.digest),
            diff_id=str(layer.diff_id),
            media_type=layer.descriptor.media_type,
            size=layer.descriptor.size,
            uncompressed=index.size,
            entries=index.summary.entries,
            spans=index.span_count,
            index_size=index.file.size,
            reframed=index.summary.reframed,
        )
        for layer, index in zip(image.resolved.layers, image.indexes, strict=True)
    ]
    return IndexReport(
        image=image.resolved.name,
        digest=str(image.digest),
        layers=layers,
        inodes=image.rootfs.tree.inode_count,
        tree_image_size=image.rootfs.tree.size,
        seconds=round(seconds, 3),
    )


_WIDE = 93
"""Columns of a layer in full."""


def _cells(layer: LayerReport) -> tuple[str, ...]:
    sizes = f"{human_size(layer.size)} -> {human_size(layer.uncompressed)}"
    reframed = " (reframed)" if layer.reframed else ""
    counts = (counted(layer.entries, "entry", "entries"), counted(layer.spans, "span"))
    return (layer.digest.partition(":")[2][:12], sizes, *counts, f"index {human_size(layer.index_size)}{reframed}")


def render_index(report: IndexReport, width: int | None = None) -> str:
    """Return the report as lines; for less than 93 columns with short digests and narrow columns."""
    lines = [f"{report.image} ({report.digest})"]
    if width is not None and width < _WIDE:
        lines += [f"  {line}".rstrip() for line in table(list(map(_cells, report.layers)), right=range(1, 5))]
    else:
        lines += [
            f"  {layer.digest[:19]}  {human_size(layer.size):>9} -> {human_size(layer.uncompressed):>9}  "
            f"{counted(layer.entries, 'entry', 'entries'):>15}  {counted(layer.spans, 'span'):>12}  "
            f"index {human_size(layer.index_size):>9}" + ("  (reframed)" if layer.reframed else "")
            for layer in report.layers
        ]
    tree_image = f"tree image {human_size(report.tree_image_size)}"
    lines.append(f"  {counted(report.inodes, 'inode')}  {tree_image}  {report.seconds:.2f} seconds")
    return "\n".join(lines)
