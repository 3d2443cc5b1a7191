"""The process that saves a recording: `python -m ocifs.mount.pack_builder FD`, started by a daemon, with low priority.

Decoding and compressing take about a second, and memory. A separate process spares the daemon both, and outlives it: a
short container ends long before. It inherits the open files, and a file in memory that describes its work. It fetches
nothing but missing windows of published indexes.

A recording lacks what the mount read from a published pack. So the blocks of that pack come first.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from ocifs.errors import OcifsError
from ocifs.hotpack.build import build_pack
from ocifs.hotpack.format import PackTable, Stream, read_table
from ocifs.hotpack.pack import HotPack
from ocifs.hotpack.recording import Range, Recording, beside, ranges
from ocifs.image.hot_pack import PackName, streams_of
from ocifs.layer.span_cache import SpanCache
from ocifs.mount.handoff import Handoff, PackSource
from ocifs.mount.record import PackRecord, from_json, to_json
from ocifs.reader import ReaderAt
from ocifs.store import Kind, Store, Writer
from ocifs.version import __version__

MIN_RECORDING = 64 << 10
"""Bytes. Fewer are not worth a file, or a new one."""
_NICE = 19
_SECONDS = 600.0
"""A builder works for about a second; with low priority on a busy machine, for longer."""


class PackJob(msgspec.Struct, frozen=True, kw_only=True):
    """The recording to save, and the cache to save it in."""

    rootfs: Handoff
    """With the published pack that was read from."""
    reads: list[tuple[int, int]]
    """(address, size) in the served file."""
    is_scan: bool
    """Whether there may be more reads than that, as of all files: then they do not extend a pack that exists."""
    limit: int
    kind: str
    version: int
    subject: str
    program: str = __version__
    """Version of ocifs: the program may have been replaced since the daemon began."""


def result_of(process: "subprocess.Popen[bytes]", seconds: float = _SECONDS) -> PackRecord:
    """Wait for a builder, and return its result; end one that takes `seconds`, because it was stopped (SIGSTOP)."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    try:
        return from_json(output, PackRecord)
    except ValueError:
        return PackRecord()


def start_builder(
    handoff: Handoff, recording: Recording, limit: int, name: PackName, published: PackSource | None
) -> "subprocess.Popen[bytes]":
    """Start a process that saves a recording of a rootfs, with all of a `published` pack. Raises OSError."""
    # Without the registries of the layers: the bytes that were read are in the cache, and others are left out. But a
    # span that was decoded after the one before it may lack its window.
    pack = published and msgspec.structs.replace(published, origin=None)
    local = msgspec.structs.replace(handoff, origins=(None,) * len(handoff.layers), pack=pack)
    job = PackJob(
        rootfs=local,
        reads=recording.reads,
        is_scan=recording.is_full(),
        limit=limit,
        kind=name.kind.name,
        version=name.kind.version,
        subject=name.subject,
    )
    message = os.memfd_create("ocifs-recording")
    try:
        with open(message, "wb", closefd=False) as file:
            file.write(to_json(job))
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ocifs.mount.pack_builder", str(message)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            pass_fds=(message, *local.fds()),
            start_new_session=True,
        )
    finally:
        os.close(message)


def main(arguments: list[str]) -> int:
    """Save the recording in the file whose descriptor is the argument."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    message = int(arguments[0])
    job = from_json(os.pread(message, os.fstat(message).st_size, 0), PackJob)
    if job.program != __version__:
        return 1
    try:
        result = save_recording(job)
    except (OcifsError, OSError, MemoryError):
        return 1
    with contextlib.suppress(BrokenPipeError):  # the daemon has ended
        sys.stdout.buffer.write(to_json(result))
        sys.stdout.flush()
    return 0


class _TooLittleError(Exception):
    """Too few new bytes to save."""


def save_recording(job: PackJob) -> PackRecord:
    """Add the reads of a job to the pack in the cache; return the new pack's record. Raises OcifsError, OSError."""
    assert job.rootfs.cache is not None  # noqa: S101 - else nothing is recorded
    store = job.rootfs.cache.open()
    kind = Kind(job.kind, job.version, checked=False)
    result = PackRecord()
    with job.rootfs.open(SpanCache()) as rootfs:
        served = rootfs.served
        streams = streams_of(served.layers)
        published = _published(job, served.pack_file, streams)

        def find(skip: list[Range]) -> list[Range]:
            sizes = [stream.size for stream in streams]
            before = _reads_of(published, served.bases)
            missing = ranges(before, served.bases, sizes, skip)
            found = ranges(job.reads, served.bases, sizes, [*skip, *missing])
            if sum(end - begin for _, begin, end in found) < MIN_RECORDING:
                return []
            return [*missing, *found, *beside(found, sizes, [*skip, *missing])]

        def read(piece: Range) -> bytes | None:
            layer, begin, end = piece
            views = None if published is None else published.views(layer, end - begin, begin)
            return None if views is None else b"".join(views)

        def build(out: Writer) -> None:  # under the lock of the entry: two recordings never lose one another
            nonlocal result
            old = _saved(store, kind, job.subject, streams)
            if job.is_scan and (old is not None or published is not None):
                raise _TooLittleError
            built = build_pack(served.layers, find, job.limit, old, is_scan=job.is_scan, read=read)
            if built.added < MIN_RECORDING:
                raise _TooLittleError
            out.for_memory = False
            for part in built.parts:
                out.write(part)
            name = f"{kind.name}{kind.version}"
            result = PackRecord(kind=name, subject=job.subject, size=built.size, added=built.added)

        with contextlib.suppress(_TooLittleError):
            store.get(kind, job.subject, build, anew=True).close()
    return result


def _published(job: PackJob, file: ReaderAt | None, streams: Sequence[Stream]) -> HotPack | None:
    """Return the published pack of a job, if it is usable."""
    head = None if job.rootfs.pack is None else job.rootfs.pack.head
    if file is None or head is None:
        return None
    pack = HotPack(lambda: (file, read_table(file, streams, job.limit, head)), verified=False)
    return None if pack.table() is None else pack


def _reads_of(pack: HotPack | None, bases: Sequence[int]) -> list[tuple[int, int]]:
    """Return the blocks of a pack as reads of the served file."""
    table = None if pack is None else pack.table()
    if table is None:
        return []
    return [(bases[block.layer] + block.offset, block.size) for frame in table.frames for block in frame.blocks]


def _saved(store: Store, kind: Kind, subject: str, streams: Sequence[Stream]) -> tuple[ReaderAt, PackTable] | None:
    """Return the pack in the cache, if it is usable."""
    file = store.load(kind, subject)
    if file is None:
        return None
    try:
        return file, read_table(file, streams, sys.maxsize)
    except (OcifsError, OSError):
        file.close()
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
