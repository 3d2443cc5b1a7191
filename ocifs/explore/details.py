"""The details pane: what is known about the item under a cursor, as text."""

from textual.content import Content

from ocifs.errors import printable
from ocifs.explore.file_view import FileAt
from ocifs.explore.layers import LayerLine
from ocifs.explore.outline import Row
from ocifs.report.listing import shown_time
from ocifs.report.text import human_size


def layer_details(layer: LayerLine) -> Content:
    """Describe a layer."""
    created = f"{layer.created[:19].replace('T', ' ')}\n" if layer.created else ""
    sizes = f"{human_size(layer.stored)} compressed, {human_size(layer.size)}"
    return Content(f"{layer.digest[:19]}\n{sizes}\n{created}{layer.created_by}")


def file_details(file: FileAt, row: Row) -> Content:
    """Describe a file of the tree."""
    entry = file.listed()
    inode = entry.inode
    size = f"  {inode.size:,} bytes" if entry.type == "regular" else ""
    target = "" if entry.target is None else f" -> {printable(entry.target)}"
    return Content(
        f"{entry.mode} {inode.uid}:{inode.gid}{size}\n{shown_time(inode.mtime_ns)}\n"
        f"layer {inode.layer}, {row.entry.change}\n/{printable(row.path)}{target}"
    )
