"""The table of mounts: a row for each, and notes below it."""

import textwrap
from collections.abc import Iterator, Sequence

from ocifs.errors import counted, printable_path
from ocifs.mount.record import ListedMount
from ocifs.report.text import fitted, local_time, table

_HEAD = ("MOUNTPOINT", "IMAGE", "DIGEST", "PID", "STATE", "KIND", "ENGINE")
_WIDE = 110
"""Columns that a table with the details of the states needs."""


def mount_lines(listed: Sequence[ListedMount], width: int | None, *, verbose: bool) -> Iterator[str]:
    """Yield the lines, cut to `width` columns, if given; if `verbose`, with what was verified of each layer."""
    rows = [_HEAD, *(_row(mount, width) for mount in listed)]
    lines = table(fitted(rows, width, elastic=(0, 1)))
    for line, mount in zip(lines, [None, *listed], strict=True):
        yield line.rstrip()
        for note in _notes(mount, width, verbose=verbose) if mount else ():
            yield from _wrapped(printable_path(note), width)


def _row(mount: ListedMount, width: int | None) -> tuple[str, ...]:
    short = width is not None
    details = [] if _is_narrow(width) else _details(mount)
    return (
        printable_path(mount.bundle or mount.mountpoint),
        printable_path(mount.image),
        mount.digest.partition(":")[2][:12] if short else mount.digest[:19],
        str(mount.pid or "?"),
        ", ".join([mount.state, *details]),
        "bundle" if mount.bundle else "mount",
        printable_path(f"{mount.engine} ({mount.reason})" if mount.reason and not short else mount.engine),
    )


def _details(mount: ListedMount) -> list[str]:
    """Return what qualifies the state of a mount."""
    restarts = mount.numbers.restarts if mount.numbers else 0
    verified = ["refuted"] if mount.refuted else [] if mount.is_verified else ["unverified"]
    return [*([f"restarts: {restarts}"] if restarts else []), *verified]


def _is_narrow(width: int | None) -> bool:
    return width is not None and width < _WIDE


def _wrapped(note: str, width: int | None) -> list[str]:
    """Return the lines of a note below a row of a table."""
    if width is None:
        return [f"  {note}"]
    return textwrap.wrap(note, max(20, width), initial_indent="  ", subsequent_indent="    ")


def _notes(mount: ListedMount, width: int | None, *, verbose: bool) -> Iterator[str]:
    """Yield the notes below the row of a mount: on a terminal what the row has no room for; details."""
    if _is_narrow(width) and (details := _details(mount)):
        yield ", ".join(details)
    if width is not None and mount.reason:
        yield f"by {mount.engine}: {mount.reason}"
    if mount.kept is not None and mount.numbers is not None and verbose:
        yield (
            f"mounted {local_time(mount.since)}, kept by process {mount.kept.keeper}, "
            f"restarts: {mount.numbers.restarts}, served by this process since {local_time(mount.kept.began)}"
            + (", idle" if mount.kept.dormant else "")
        )
    for number, layer in enumerate(mount.layers if verbose else ()):
        yield (
            f"layer {number}: blob {layer.blob[:19]} and diff ID {layer.diff_id[:19]} "
            + (f"verified {local_time(layer.verified_at)}" if layer.verified_at else "not yet verified")
            + f", each of {counted(layer.spans, 'span')} whenever it is decoded"
            + (f"; index {layer.index}" if layer.index else "")
        )
