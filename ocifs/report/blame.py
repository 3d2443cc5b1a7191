"""The history of one path: which layers added, changed or removed it, and which versions are hidden.

It looks up the path in the tree of what each layer changes (`ocifs.tree.changes`), independent of their size.
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
    """`emptied`: an opaque whiteout hid the content of the directory."""
    entry: Listed | None = None
    """The file as the layer left it; None: removed."""
    cause: Listed | None = None
    """What removed it: a whiteout, an opaque directory or a file, at its own name or at a directory above it."""
    hidden: bool = False
    """Whether a later layer hides this version."""


def path_history(image: Image, path: bytes) -> list[Event]:
    """Return what each layer did to `path`, the base layer first; layers without an effect are left out.

    Symlinks on the way are followed as in the whole image; a symlink at the end is not.

    Raises:
        NotFoundError: No layer has the path.
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
    """Return what the layer did to the path of these names, which exists below it if `present`."""
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
    # The layer holds a lower directory only because something below it changed.
    if not stat.S_ISDIR(entry.inode.mode) or entry.inode.layer == number:
        return Event(layer=number, change="changed" if present else "added", entry=entry)
    return Event(layer=number, change="emptied", entry=entry, cause=entry) if entry.opaque else None


def history_lines(events: Sequence[Event], layers: Sequence[str], show: Show) -> Iterator[bytes]:
    """Yield a line for each event; `layers` are the digests of the layers."""
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
    """Return the members that describe an event in JSON."""
    fields = named("path", path) | {"layer": event.layer, "change": event.change, "hidden": event.hidden}
    if event.entry is not None:
        fields["file"] = members(event.entry)
    if event.cause is not None:
        fields |= {"cause": "opaque" if event.cause.opaque else event.cause.type} | named(
            "cause_path", event.cause.path
        )
    return fields
