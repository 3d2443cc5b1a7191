"""The hot start of a mount: use the image's hot pack, and record what the pack lacks.

A thread decodes the pack ahead of the readers. With the erofs engine it lets the kernel request the bytes at once, so
that readers find them in the page cache; before them the tree image, which every path lookup reads. Another thread
waits for the end of the recording, and lets a process of low priority save it (`ocifs.mount.pack_builder`). A mount
works the same without any of this, so no failure here is an error.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ocifs.errors import ShortageError
from ocifs.hotpack.format import BLOCK_MAX, PackTable, read_table
from ocifs.hotpack.pack import HotPack
from ocifs.hotpack.recording import Recording
from ocifs.image.hot_pack import streams_of
from ocifs.image.rootfs import Rootfs
from ocifs.mount.engine import Engine
from ocifs.mount.handoff import Handoff, PackSource
from ocifs.mount.pack_builder import MIN_RECORDING, PackResult, start_builder
from ocifs.pool import start
from ocifs.reader import ReaderAt

if TYPE_CHECKING:
    import subprocess

_TREE_MAX = 16 << 20
"""Maximum bytes of a tree image that is put into the page cache whole."""
_PIECE = BLOCK_MAX
"""Bytes to request at once: the kernel's readahead, beyond which it ignores an announcement."""
_HOLD = 10.0
"""Seconds for which the fuse engine keeps a decoded pack."""


class HotStart:
    """The hot start of one rootfs, with a pack of up to `limit` decoded bytes; 0: without."""

    def __init__(self, handoff: Handoff, rootfs: Rootfs, limit: int) -> None:
        """Prepare the served file; no thread runs yet."""
        self._handoff = handoff
        self._rootfs = rootfs
        self._limit = limit
        self._ended = threading.Event()
        served = rootfs.served
        if not limit or not served.layers:
            return
        if handoff.pack is not None:
            served.pack = self._opened(handoff.pack)
        if handoff.cache is not None:
            served.recording = Recording(served.bases[0], limit)

    def start(self, engine: Engine, report: Callable[[PackResult], None] = lambda result: None) -> None:
        """Start the threads for a mounted engine; call `report` once a recording is saved."""
        recording = self._rootfs.served.recording
        with contextlib.suppress(ShortageError):
            if (file := engine.open_served_file()) is not None:
                start(lambda: self._fill(file))
            elif self._rootfs.served.pack is not None:
                self._rootfs.served.pack.capacity = self._limit
                start(self._decode)
            if recording is not None:
                start(lambda: self._save(recording, engine, report))

    def resume(self) -> None:
        """Do without a recording: another process has served the mount before, and the kernel has much of the pack."""
        self._rootfs.served.recording = None

    def stop(self) -> None:
        """Stop using the page cache: the engine is about to end."""
        self._ended.set()

    def finish(self) -> None:
        """Let another process save what is recorded, and not saved yet."""
        self._ended.set()
        recording = self._rootfs.served.recording
        if recording is not None:
            recording.end()
            self._rootfs.served.recording = None
            self._build(recording)

    def _opened(self, source: PackSource) -> HotPack:
        streams = streams_of(self._rootfs.served.layers)
        file: ReaderAt = source.file.open()

        def load() -> tuple[ReaderAt, PackTable]:
            return file, read_table(file, streams, self._limit, source.head)

        return HotPack(load, verified=source.verified)

    def _fill(self, file: int) -> None:
        """Let the kernel request the tree image and the pack."""
        served = self._rootfs.served
        try:
            for offset in range(0, min(self._rootfs.tree_image.size, _TREE_MAX), _PIECE):
                self._fetch(file, offset, _PIECE)
            table = None if served.pack is None else served.pack.table()
            for number, frame in enumerate(table.frames if table is not None else ()):
                if self._ended.is_set() or served.pack is None or served.pack.frame(number) is None:
                    return
                for block in frame.blocks:
                    self._fetch(file, served.bases[block.layer] + block.offset, block.size)
        finally:
            os.close(file)

    def _fetch(self, file: int, address: int, size: int) -> None:
        # Unlike a read, this does not wait for an answer, so this process can be killed at any time. Unlike
        # FUSE_NOTIFY_STORE, it does not wait for a page that a reader waits for.
        if not self._ended.is_set():
            os.posix_fadvise(file, address, size, os.POSIX_FADV_WILLNEED)

    def _decode(self) -> None:
        """Decode the pack, for `HotFiles`, and release it once the start is over."""
        pack = self._rootfs.served.pack
        assert pack is not None  # noqa: S101 - the caller has checked that
        table = pack.table()
        for number in range(0 if table is None else len(table.frames)):
            if self._ended.is_set() or pack.frame(number) is None:
                return
        self._ended.wait(_HOLD)
        pack.shrink()

    def _save(self, recording: Recording, engine: Engine, report: Callable[[PackResult], None]) -> None:
        """Wait for the end of the recording, and save it."""
        recording.wait()
        if self._ended.is_set():
            return
        self._rootfs.served.recording = None
        engine.raise_readahead()
        process = self._build(recording)
        if process is not None:
            report(PackResult.of(process))

    def _build(self, recording: Recording) -> "subprocess.Popen[bytes] | None":
        if sum(size for _, size in recording.reads) < MIN_RECORDING:
            return None
        with contextlib.suppress(OSError):
            return start_builder(self._handoff, self._rootfs, recording, self._limit)
        return None
