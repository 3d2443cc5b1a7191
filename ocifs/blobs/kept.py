"""Archives that arrive as a stream, kept as a whole in the cache: from a web server, or from a Docker engine.

An archive is kept under the identity that its origin states, so a second command reads it at once. Without such an
identity, or without a cache directory, it becomes a temporary file for this command. This module does not know what the
bytes mean: the readers of the archive verify its documents and layers.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from ocifs.blobs.download import MAX_IN_MEMORY, Progress
from ocifs.errors import StoreError
from ocifs.limits import Limits
from ocifs.reader import FileReader
from ocifs.sources.archive import Decompress
from ocifs.sources.spool import bounded, spool
from ocifs.spec.digest import Digest
from ocifs.store import Kind, Store, Writer

KIND = Kind("saved", 1, checked=False)
"""An archive of images, under the identity that its origin states."""


class Keeping(NamedTuple):
    """Where archives are kept, and how they are opened."""

    store: Store
    limits: Limits
    """`spool` bounds an archive."""
    decompress: Decompress
    downloading: Progress
    """Receives (identity, bytes present, bytes in total) while an archive arrives."""
    warn: Callable[[str], None]


def keep(
    keeping: Keeping,
    identity: Digest | None,
    arriving: Callable[[], Iterator[bytes]],
    name: str,
    check: Callable[[FileReader], None] = lambda file: None,
) -> FileReader:
    """Return the archive in a file, whose descriptor the caller closes.

    Args:
        keeping: The cache, limits and callbacks.
        identity: Names the archive in the cache; None: it has no lasting name.
        arriving: Requests the archive, and yields its bytes in order.
        name: Name in errors.
        check: Called with all bytes before they are kept; its errors discard them.

    Raises the errors of `arriving` and `check`, LimitError, and

        StoreError: The cache has no room.
    """
    store, limits = keeping.store, keeping.limits
    if identity is None or store.directory is None:
        with ExitStack() as undo:
            fd = spool(arriving(), name, limits)
            undo.callback(os.close, fd)
            check(file := FileReader(fd))
            undo.pop_all()
        return file

    def build(out: Writer) -> None:
        out.for_memory = False
        for piece in bounded(arriving(), name, limits):
            try:
                out.write(piece)
            except StoreError:
                raise _no_room(name) from None
            if out.in_memory and out.size > MAX_IN_MEMORY:  # the directory has become unusable
                raise _no_room(name)
        check(FileReader(out.fd, 0, out.size))

    return store.get(KIND, identity, build)


def _no_room(name: str) -> StoreError:
    return StoreError(f"the cache has no room for {name}: free some, or choose another directory with --cache-dir")
