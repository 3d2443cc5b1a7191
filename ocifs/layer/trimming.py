"""Trim the windows of LayerIndexes after a mount, in a process that gets only idle processor time (`python -m` this).

An index built by the quick pass has whole windows, which take five times the space. The process writes the index again
and replaces the entry of the cache. Processes that have opened the old one keep it. If the process is interrupted, the
old one stays, and the next mount of the image starts another process. The index is verified already, so readers get the
same bytes before and after.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec.structs import replace

from ocifs.compression.zstd_frame import window_packer
from ocifs.errors import InvalidImageError, OcifsError
from ocifs.layer.index import LayerIndex, index_in
from ocifs.layer.index_format import KIND, join_tail, pack_u64
from ocifs.layer.layer import Layer
from ocifs.reader import FileReader, FileSection, ReaderAt
from ocifs.spec.digest import Digest
from ocifs.store import Store, StoredFile, Writer


def trim_index(index: LayerIndex, blob: ReaderAt, out: Writer) -> None:
    """Write a copy of an index with trimmed windows.

    Raises:
        InvalidImageError: The blob or the index has changed.
        OSError: The blob cannot be read.
    """
    offsets = []
    for window in _trimmed(index, blob):
        offsets.append(out.size)
        out.write(window)
    offsets.append(out.size)
    summary = replace(index.summary, windows=pack_u64(offsets), window_digests=b"", untrimmed=False)
    out.write(join_tail(index.packed_toc(), summary, out.size))


def _trimmed(index: LayerIndex, blob: ReaderAt) -> Iterator[bytes]:
    """Yield the packed windows of the spans."""
    from ocifs.compression.trimming import trim  # not needed for starting the process

    pack = window_packer()
    for span in range(index.span_count):
        window = index.checkpoint(span).window
        if window:
            offset, size = index.stored_range(span)
            data = index.verified(span, blob.pread(size, offset))
            if data is None:
                raise InvalidImageError("the blob has changed")
            window = trim(window, data, index.summary.bits[span])
        yield pack(window)


def trim_later(store: Store, layers: Iterable[Layer]) -> None:
    """Start a process that trims those indexes that are not trimmed; do nothing if the system refuses."""
    blobs = _untrimmed(layers)
    if not blobs or store.directory is None:
        return
    with suppress(OSError):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, *arguments(store.directory, store.max_size, blobs)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            pass_fds={blob.fd for blob in blobs.values()},
            start_new_session=True,
            # It may outlive the session, and uses no runtime directory.
            env={name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"},
        )
        process.returncode = 0  # it outlives this process


def _untrimmed(layers: Iterable[Layer]) -> dict[str, FileSection]:
    """Return the blobs of untrimmed indexes, by digest, if another process can read them."""
    blobs: dict[str, FileSection] = {}
    for layer in layers:
        if layer.index.summary.untrimmed and isinstance(layer.blob, FileSection):
            blobs[layer.index.summary.blob_digest] = layer.blob
    return blobs


def arguments(directory: Path, max_size: int, blobs: Mapping[str, FileSection]) -> list[str]:
    """Return the arguments of `main`: the cache, its size, and the place of each blob in a file that it inherits."""
    places = [f"{digest}={blob.fd},{blob.offset},{blob.size}" for digest, blob in blobs.items()]
    return [os.path.abspath(directory), str(max_size), *places]


def trimmed(store: Store, layer: Layer, stack: ExitStack) -> LayerIndex:
    """Return the index of a layer, trimmed now if it is not yet; `stack` closes a new one. Raises as `trim_index`."""
    if not layer.index.summary.untrimmed:
        return layer.index
    digest = Digest(layer.index.summary.blob_digest)
    file = trim_entry(store, digest, layer.blob)
    index = _opened(store, digest) if file is None else index_in(file, digest)
    if index is None:  # removed meanwhile
        return layer.index
    stack.callback(os.close, index.file.fd)
    return index


def main(arguments: Iterable[str]) -> None:
    """Trim indexes. Raises OcifsError, OSError."""
    directory, max_size, *blobs = arguments
    store = Store(Path(directory), max_size=int(max_size))
    for each in blobs:
        digest, _, place = each.partition("=")
        fd, offset, size = map(int, place.split(","))
        if (file := trim_entry(store, Digest(digest), FileReader(fd, offset, size), in_memory=False)) is not None:
            file.close()


def trim_entry(store: Store, digest: Digest, blob: ReaderAt, *, in_memory: bool = True) -> StoredFile | None:
    """Replace the index of a blob in the store by a trimmed one, and return it; None if it is trimmed, or missing.

    If the disk is full, the old one stays in the store, and the new one is in memory; without `in_memory`, that is a
    StoreError. Raises as `trim_index`.
    """

    def build(out: Writer) -> None:
        out.for_memory = in_memory
        index = _opened(store, digest)
        if index is None or not index.summary.untrimmed:
            raise _TrimmedError
        try:
            trim_index(index, blob, out)
        finally:
            os.close(index.file.fd)

    with suppress(_TrimmedError):
        return store.get(KIND, digest, build, anew=True)
    return None


class _TrimmedError(Exception):
    """Another process was faster."""


def _opened(store: Store, digest: Digest) -> LayerIndex | None:
    file = store.load(KIND, digest)
    return None if file is None else index_in(file, digest)


if __name__ == "__main__":
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OcifsError, OSError):  # the next mount tries again
        main(sys.argv[1:])
