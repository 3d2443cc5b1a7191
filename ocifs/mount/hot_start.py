"""The hot start of a mount: use the image's hot pack, and record the reads that it lacks.

A thread decodes the pack ahead of the readers. With the erofs engine it lets the kernel request the bytes at once, so
that readers find them in the page cache; before them the tree image, which every path lookup reads. Another thread
waits for the end of the recording, and lets a process of low priority save it (`ocifs.mount.pack_builder`). A mount
works the same without any of this, so no failure here is an error.

A recording lacks what was read from a published pack. So it is saved together with that pack, once all of it has
arrived, or not at all. After the layers, the blocks of the pack are verified, whatever has become of its file: the
kernel keeps the pages that were read. Then the pack of the unverified layers becomes that of the verified ones.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ocifs.blobs.download import discard
from ocifs.errors import InvalidImageError, OcifsError, ShortageError
from ocifs.hotpack.format import BLOCK_MAX, Block, PackTable, read_table
from ocifs.hotpack.pack import HotPack
from ocifs.hotpack.recording import Recording
from ocifs.hotpack.verification import blocks_of, verify_pack
from ocifs.image.hot_pack import (
    UNVERIFIED_PACK,
    PackName,
    adopt_pack,
    pack_name,
    save_published,
    streams_of,
    verified_table,
)
from ocifs.image.rootfs import Rootfs
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.mount.engine import Engine
from ocifs.mount.handoff import Handoff, PackSource
from ocifs.mount.pack_builder import MIN_RECORDING, result_of, start_builder
from ocifs.mount.pack_download import PackDownload
from ocifs.mount.record import PackRecord
from ocifs.pool import start
from ocifs.reader import BlobReader, ReaderAt
from ocifs.store import Store

if TYPE_CHECKING:
    import subprocess

_TREE_MAX = 16 << 20
"""Maximum bytes of a tree image that is put into the page cache whole."""
_PIECE = BLOCK_MAX
"""Bytes to request at once: the kernel's readahead, beyond which it ignores an announcement."""
_HOLD = 10.0
"""Seconds for which the fuse engine keeps a decoded pack."""

Report = Callable[[PackRecord], None]


class HotStart:
    """The hot start of one rootfs, with a pack of up to `limit` decoded bytes; 0: without."""

    def __init__(self, handoff: Handoff, rootfs: Rootfs, limit: int) -> None:
        """Prepare the served file; no thread runs yet."""
        self._handoff = handoff
        self._rootfs = rootfs
        self._limit = limit
        subject = handoff.unverified_pack
        self._unverified = None if subject is None else PackName(UNVERIFIED_PACK, subject)
        self._ended = threading.Event()
        self._download: PackDownload | None = None
        self._report: Report = lambda record: None
        self._saved = PackRecord()
        self._compared: frozenset[Block] | None = None
        """The blocks of the pack in use, once they were compared with the layers."""
        self._is_filling = False
        """Whether the served file is open for `_fill`."""
        self._adopting = threading.Lock()
        """Held while packs of unverified layers become those of verified ones."""
        served = rootfs.served
        if not limit or not served.layers:
            return
        if handoff.pack is not None and served.pack_file is not None:
            served.pack = self._opened(handoff.pack, served.pack_file)
        if handoff.cache is not None:
            served.recording = Recording(served.bases[0], limit)

    def start(self, engine: Engine, report: Report = lambda record: None) -> None:
        """Start the threads for a mounted engine; call `report` once a recording is saved."""
        self._fetch_pack()
        with contextlib.suppress(ShortageError):
            if (file := engine.open_served_file(self._released)) is not None:
                self._is_filling = True
                try:
                    start(lambda: self._fill(file))
                except ShortageError:
                    self._is_filling = False
                    os.close(file)
                    raise
            elif self._rootfs.served.pack is not None:
                self._rootfs.served.pack.capacity = self._limit
                start(self._decode)
            self._record(engine, report)

    def resume(self, engine: Engine, report: Report = lambda record: None) -> None:
        """Start the threads for a mount that another process has served before: the kernel has much of the pack."""
        self._fetch_pack()
        with contextlib.suppress(ShortageError):
            self._record(engine, report)

    def _record(self, engine: Engine, report: Report) -> None:
        """Start to wait for the end of the recording, if there is one. Raises ShortageError."""
        self._report = report
        if (recording := self._rootfs.served.recording) is not None:
            start(lambda: self._save(recording, engine))

    def _fetch_pack(self) -> None:
        served, download = self._rootfs.served, self._download
        if download is None or (pack := served.pack) is None:
            return

        def fetch() -> None:
            try:
                download.run(pack)
            finally:
                served.is_fetching_pack = False

        served.is_fetching_pack = True
        try:
            start(fetch)
        except ShortageError:
            served.is_fetching_pack = False
            download.run(pack, fetch=False)  # else it could not be compared with the layers

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

    def is_arriving(self) -> bool:
        """Whether a published pack is arriving, and needs the link."""
        return self._download is not None and self._download.is_moving()

    def verify(self, pause: Callable[[int], None]) -> None:
        """Compare the pack with the layers, which are verified, and save it as verified.

        Raises:
            InvalidImageError: It has false bytes.
            NotFoundError, RegistryError: Parts of a layer cannot be fetched.
        """
        served = self._rootfs.served
        if not self._limit:
            return
        if self._download is not None and not self._download.has_head and served.pack is not None:
            served.pack.abandon("its head arrives too late")  # it would not be compared any more
        table = None if served.pack is None or served.pack.verified else served.pack.table()
        if table is not None:
            verify_pack(table, served.layers, pause, self._verified_blocks())
        self._compared = frozenset() if table is None else blocks_of(table)
        if served.pack is not None:
            served.pack.verified = True
        with self._adopting:
            if not served.is_saving:  # else `_save` does that
                self._adopt(pause)

    def _verified_blocks(self) -> frozenset[Block]:
        """Return the blocks of the pack of the verified layers: another process has compared them before."""
        if self._handoff.cache is None:
            return frozenset()
        if (found := verified_table(self._handoff.cache.open(), self._rootfs.served.layers)) is None:
            return frozenset()
        found[0].close()
        return blocks_of(found[1])

    def drop(self) -> None:
        """Remove the unverified packs of the layers from the cache."""
        if self._handoff.cache is None:
            return
        store = self._handoff.cache.open()
        with contextlib.suppress(OSError):
            if self._unverified is not None:
                store.remove(*self._unverified)
            self._discard_published(store)

    def _discard_published(self, store: Store) -> None:
        source = self._handoff.pack
        if source is not None and source.digest is not None:
            discard(store, source.digest, source.file.size)

    def _opened(self, source: PackSource, file: BlobReader) -> HotPack:
        streams = streams_of(self._rootfs.served.layers)
        reader: ReaderAt = file
        if isinstance(file, LazyBlob) and source.head is not None:
            self._download = PackDownload(file, source.head)
            reader = self._download.file
        most = sys.maxsize if source.head is None else self._limit  # only the bound of this mount, not of others

        def load() -> tuple[ReaderAt, PackTable]:
            return reader, read_table(reader, streams, most, source.head)

        is_arriving = self._download is not None
        return HotPack(load, verified=source.verified, limit=self._limit, is_arriving=is_arriving)

    def _fill(self, file: int) -> None:
        """Let the kernel request the tree image and the pack."""
        served = self._rootfs.served
        try:
            for offset in range(0, min(self._rootfs.tree_image.size, _TREE_MAX), _PIECE):
                self._fetch(file, offset, _PIECE)
            if (pack := served.pack) is None or (table := pack.table()) is None:
                return
            for number, frame in enumerate(table.frames[: pack.used]):
                if not self._decode_frame(pack, number):
                    return
                for block in frame.blocks:
                    self._fetch(file, served.bases[block.layer] + block.offset, block.size)
        finally:
            self._is_filling = False
            os.close(file)

    def _released(self) -> None:
        """Stop waiting for the pack if only `_fill` has the served file open: the mount is gone."""
        if self._is_filling:
            self._ended.set()
            if self._download is not None:
                self._download.file.end()

    def _fetch(self, file: int, address: int, size: int) -> None:
        # Unlike a read, this does not wait for an answer, so this process can be killed at any time. Unlike
        # FUSE_NOTIFY_STORE, it does not wait for a page that a reader waits for.
        if not self._ended.is_set():
            os.posix_fadvise(file, address, size, os.POSIX_FADV_WILLNEED)

    def _decode(self) -> None:
        """Decode the pack, for `HotFiles`, and release it once the start is over."""
        pack = self._rootfs.served.pack
        assert pack is not None  # noqa: S101 - the caller has checked that
        pack.table()
        for number in range(pack.used):
            if not self._decode_frame(pack, number):
                return
        self._ended.wait(_HOLD)
        pack.shrink()

    def _decode_frame(self, pack: HotPack, number: int) -> bool:
        """Decode a frame of the pack; return whether to go on."""
        if self._ended.is_set():
            return False
        if pack.frame(number) is not None:
            return True
        if self._download is None and self._handoff.cache is not None:  # a damaged one is fetched again next time
            self._discard_published(self._handoff.cache.open())
        return False

    def _save(self, recording: Recording, engine: Engine) -> None:
        """Wait for the end of the recording, and save it."""
        recording.wait()
        if self._ended.is_set():
            return
        served = self._rootfs.served
        served.is_saving = True
        served.recording = None
        engine.raise_readahead()
        if self._download is not None:
            self._download.wait()
        process = self._build(recording)
        saved = PackRecord() if process is None else result_of(process)
        with self._adopting:
            if saved.size:
                self._saved = saved
                self._report(saved)
            if self._is_refuted():
                self.drop()
            elif self._compared is not None:
                self._adopt(lambda size: None)
            served.is_saving = False

    def _build(self, recording: Recording) -> "subprocess.Popen[bytes] | None":
        """Start a process that saves a recording, unless it is of no use."""
        served, source, published = self._rootfs.served, self._handoff.pack, None
        if sum(size for _, size in recording.reads) < MIN_RECORDING or self._is_refuted():
            return None
        if served.pack is not None and source is not None and source.head is not None:
            if self._download is None or self._download.is_complete:
                published = None if served.pack.table() is None else source
            elif served.is_fetching_pack or served.pack.has_served:
                return None  # it lacks what was read from the published pack
        name = pack_name(served.layers)
        # Blocks that were not compared yet must not become those of a verified pack. Once some of the layers are
        # verified, unverified ones have another name than that which `_adopt` looks for.
        if not name.is_verified or (served.pack is not None and not served.pack.verified):
            name = self._unverified or name
        with contextlib.suppress(OSError):
            return start_builder(self._handoff, recording, self._limit, name, published)
        return None

    def _is_refuted(self) -> bool:
        return any(layer.verification.refuted is not None for layer in self._rootfs.served.layers)

    def _adopt(self, pause: Callable[[int], None]) -> None:
        """Let the pack of the unverified layers, or else the published one, become that of the verified layers."""
        name, served = self._unverified, self._rootfs.served
        if self._handoff.cache is None or name is None:
            return
        store = self._handoff.cache.open()
        try:
            if adopt_pack(store, served.layers, name.subject, pause, self._compared or frozenset()):
                if self._saved.subject == name.subject:
                    kind, subject = pack_name(served.layers)
                    self._report(replace(self._saved, kind=f"{kind.name}{kind.version}", subject=subject))
            elif self._download is None or self._download.is_complete:
                self._save_published(store)
        except InvalidImageError:  # this mount has not read from it
            store.remove(*name)
        except (OcifsError, OSError):  # a full disk
            return

    def _save_published(self, store: Store) -> None:
        source, pack = self._handoff.pack, self._rootfs.served.pack
        if source is None or source.head is None or pack is None:
            return
        table, file = pack.table(), pack.file()
        if table is not None and file is not None:
            save_published(store, self._rootfs.served.layers, file, table)
