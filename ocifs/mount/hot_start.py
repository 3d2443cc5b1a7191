"""The hot start of a mount: use the image's hot pack, and record the reads that it lacks.

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

from ocifs.blobs.download import BLOB, finish
from ocifs.errors import OcifsError, ShortageError
from ocifs.hotpack.arriving import ArrivingFile
from ocifs.hotpack.format import BLOCK_MAX, PackTable, read_table
from ocifs.hotpack.pack import HotPack
from ocifs.hotpack.recording import Recording
from ocifs.hotpack.verification import verify_pack
from ocifs.image.hot_pack import pack_name, save_verified, streams_of
from ocifs.image.rootfs import Rootfs
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.verification import digest_blob
from ocifs.mount.engine import Engine
from ocifs.mount.handoff import Handoff, PackSource
from ocifs.mount.pack_builder import MIN_RECORDING, result_of, start_builder
from ocifs.mount.record import PackRecord
from ocifs.pool import start
from ocifs.reader import BlobReader, FileReader, ReaderAt
from ocifs.spec.digest import Digest

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
        self._lazy: LazyBlob | None = None
        self._arriving: ArrivingFile | None = None
        served = rootfs.served
        if not limit or not served.layers:
            return
        if handoff.pack is not None and served.pack_file is not None:
            served.pack = self._opened(handoff.pack, served.pack_file)
        if handoff.cache is not None:
            served.recording = Recording(served.bases[0], limit)

    def start(self, engine: Engine, report: Callable[[PackRecord], None] = lambda record: None) -> None:
        """Start the threads for a mounted engine; call `report` once a recording is saved."""
        self._fetch_pack()
        with contextlib.suppress(ShortageError):
            if (file := engine.open_served_file()) is not None:
                try:
                    start(lambda: self._fill(file))
                except ShortageError:
                    os.close(file)
                    raise
            elif self._rootfs.served.pack is not None:
                self._rootfs.served.pack.capacity = self._limit
                start(self._decode)
            self._record(engine, report)

    def resume(self, engine: Engine, report: Callable[[PackRecord], None] = lambda record: None) -> None:
        """Start the threads for a mount that another process has served before: the kernel has much of the pack."""
        self._fetch_pack()
        with contextlib.suppress(ShortageError):
            self._record(engine, report)

    def _record(self, engine: Engine, report: Callable[[PackRecord], None]) -> None:
        """Start to wait for the end of the recording, if there is one. Raises ShortageError."""
        if (recording := self._rootfs.served.recording) is not None:
            start(lambda: self._save(recording, engine, report))

    def _fetch_pack(self) -> None:
        lazy, arriving = self._lazy, self._arriving
        if lazy is not None and arriving is not None:
            try:
                start(lambda: self._receive(lazy, arriving))
            except ShortageError:
                self._rootfs.served.pack = None

    def stop(self) -> None:
        """Stop using the page cache: the engine is about to end."""
        self._ended.set()

    def finish(self) -> None:
        """Let another process save a recording that is not saved yet."""
        self._ended.set()
        recording = self._rootfs.served.recording
        if recording is not None:
            recording.end()
            self._rootfs.served.recording = None
            self._build(recording)

    def is_unverified(self) -> bool:
        """Whether the pack is in use, and was not compared with the layers."""
        pack = self._rootfs.served.pack
        return pack is not None and not pack.verified and pack.table() is not None

    def verify(self, pause: Callable[[int], None]) -> None:
        """Compare the pack with the layers, which are verified, and save it as verified.

        Raises:
            InvalidImageError: It has false bytes.
            NotFoundError, RegistryError: Parts of a layer cannot be fetched.
        """
        pack, layers = self._rootfs.served.pack, self._rootfs.served.layers
        if pack is None or (table := pack.table()) is None:
            return
        verify_pack(table, layers, pause)
        pack.verified = True
        if self._handoff.cache is not None and (file := pack.file()) is not None:
            with contextlib.suppress(OcifsError, OSError):  # a full disk
                save_verified(self._handoff.cache.open(), layers, file, table)

    def drop(self) -> None:
        """Remove the unverified packs of the layers from the cache."""
        if self._handoff.cache is None:
            return
        store = self._handoff.cache.open()
        with contextlib.suppress(OSError):
            store.remove(*pack_name(self._rootfs.served.layers))
            if self._handoff.pack is not None and self._handoff.pack.origin is not None:
                store.remove(BLOB, self._handoff.pack.origin.digest)

    def _opened(self, source: PackSource, file: BlobReader) -> HotPack:
        streams = streams_of(self._rootfs.served.layers)
        if isinstance(file, LazyBlob):
            self._lazy = file
            self._arriving = ArrivingFile(file.fd, file.size)
        reader = self._arriving or file

        def load() -> tuple[ReaderAt, PackTable]:
            return reader, read_table(reader, streams, self._limit, source.head)

        return HotPack(load, verified=source.verified)

    def _receive(self, lazy: LazyBlob, file: ArrivingFile) -> None:
        """Fetch a published pack; if it is intact, save it in the cache."""
        if file.receive(lazy.stream):
            digest = Digest(lazy.origin().digest)
            with contextlib.suppress(OcifsError, OSError):
                if digest_blob(FileReader(file.fd, 0, file.size), digest, lambda size: None) == digest:
                    finish(lazy)

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

    def _save(self, recording: Recording, engine: Engine, report: Callable[[PackRecord], None]) -> None:
        """Wait for the end of the recording, and save it."""
        recording.wait()
        if self._ended.is_set():
            return
        served = self._rootfs.served
        served.is_saving = True
        served.recording = None
        engine.raise_readahead()
        process = self._build(recording)
        if process is not None and (record := result_of(process)).size:
            report(record)
        served.is_saving = False

    def _build(self, recording: Recording) -> "subprocess.Popen[bytes] | None":
        if sum(size for _, size in recording.reads) < MIN_RECORDING:
            return None
        if any(layer.verification.refuted is not None for layer in self._rootfs.served.layers):
            return None  # `drop` has removed such packs
        with contextlib.suppress(OSError):
            return start_builder(self._handoff, self._rootfs, recording, self._limit)
        return None
