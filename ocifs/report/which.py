"""The history of one path: which layer added, replaced or removed it, and what of it is hidden below.

Told by the trees of what each layer changes (`ocifs.tree.changes`): a look into each, whatever they hold.
"""

import stat
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from ocifs.errors import NotFoundError, printable
from ocifs.image.opening import Image
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed, Show, members, named, shown_time, size_or_device

Change = Literal["added", "changed", "removed", "emptied"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer did to a path."""

    layer: int
    change: Change
    """`emptied`: an opaque whiteout hid what was in the directory."""
    entry: Listed | None = None
    """The file as the layer left it; None: it is gone."""
    cause: Listed | None = None
    """What removed it: a whiteout, an opaque directory or a file, of its own name or of a directory above it."""
    hidden: bool = False
    """A later layer hides what this one gave."""


def path_history(image: Image, path: bytes) -> list[Event]:
    """Return what each layer did to `path`, the base layer first; layers that did nothing are left out.

    Symlinks on the way are followed as in the whole image; one at the end is not.

    Raises:
        NotFoundError: No layer ever gave it.
    """
    names = image.rootfs.canonical(path)
    events: list[Event] = []
    present = not names
    for number in range(len(image.resolved.layers)):
        event = _event(image.changes(number), number, names, present=present)
        if event is not None:
            events.append(event)
            present = event.change != "removed"
    if not events:
        shown = printable(b"/" + b"/".join(names))
        raise NotFoundError(
            f"{printable(path)}: no layer of the image has {'it' if printable(path) == shown else shown}"
        )
    last = max(place for place, event in enumerate(events) if event.change != "emptied")
    return [
        msgspec.structs.replace(event, hidden=event.entry is not None and place < last)
        for place, event in enumerate(events)
    ]


def _event(tree: Rootfs, number: int, names: Sequence[bytes], *, present: bool) -> Event | None:
    """Return what the layer did to the path of those names, which is `present` below it."""
    nid = tree.root
    cut = None
    for depth in range(len(names) + 1):
        entry = Listed.of(tree, b"/" + b"/".join(names[:depth]), nid, detailed=depth == len(names))
        if entry.whiteout:
            return Event(layer=number, change="removed", cause=entry) if present else None
        if depth == len(names):
            return _given(entry, number, present=present)
        if not stat.S_ISDIR(entry.inode.mode):
            return Event(layer=number, change="removed", cause=entry) if present else None
        cut = entry if entry.opaque else cut
        child = tree.tree.lookup(nid, names[depth])
        if child is None:
            break
        nid = child
    return Event(layer=number, change="removed", cause=cut) if present and cut else None


def _given(entry: Listed, number: int, *, present: bool) -> Event | None:
    # A directory of a lower layer is there only because something below it was changed.
    if not stat.S_ISDIR(entry.inode.mode) or entry.inode.layer == number:
        return Event(layer=number, change="changed" if present else "added", entry=entry)
    return Event(layer=number, change="emptied", entry=entry, cause=entry) if entry.opaque else None


def history_lines(events: Sequence[Event], layers: Sequence[str], show: Show) -> Iterator[bytes]:
    """Give a line for each event; `layers` are the layers' digests."""
    for event in events:
        yield f"layer {event.layer}  {layers[event.layer][:19]}  {event.change:7}  ".encode() + _what(event, show)


def _what(event: Event, show: Show) -> bytes:
    entry = event.entry
    if entry is None:
        return b"by " + _cause(event, show)
    inode = entry.inode
    text = f"{entry.mode} {inode.uid} {inode.gid} {size_or_device(inode)} {shown_time(inode.mtime_ns)}".encode()
    if entry.target is not None:
        text += b" -> " + show(entry.target)
    if entry.opaque:
        text += b"  (opaque)"
    elif inode.layer != event.layer:  # a hard link
        text += f"  (the file of layer {inode.layer})".encode()
    return text + (b"  (hidden)" if event.hidden else b"")


def _cause(event: Event, show: Show) -> bytes:
    cause = event.cause
    if cause is None:
        return b"nothing"
    if cause.opaque:
        return b"the opaque whiteout of " + show(cause.path)
    return (b"the whiteout " if cause.whiteout else f"a {cause.type} file at ".encode()) + show(cause.name)


def history_members(path: bytes, event: Event) -> dict[str, object]:
    """Return what is said in JSON of an event in the history of `path`."""
    fields = named("path", path) | {"layer": event.layer, "change": event.change, "hidden": event.hidden}
    if event.entry is not None:
        fields["file"] = members(event.entry)
    if event.cause is not None:
        fields |= {"cause": "opaque" if event.cause.opaque else event.cause.type} | named(
            "cause_path", event.cause.path
        )
    return fields
