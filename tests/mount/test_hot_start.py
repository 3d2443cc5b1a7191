"""Recordings are saved in the cache, and a later start uses them: right bytes, even if the pack is damaged.

The blob is overwritten in between, so that what the pack lacks cannot be read.
"""

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, StoreError
from ocifs.image.hot_pack import PACK, pack_name
from ocifs.image.opening import Image, open_image
from ocifs.image.rootfs import Rootfs
from ocifs.layer.span_cache import SpanCache
from ocifs.mount.handoff import CacheDirectory, Handoff, source_of
from ocifs.mount.hot_files import HotFiles
from ocifs.mount.hot_start import HotStart
from ocifs.mount.pack_builder import MIN_RECORDING, PackJob, save_recording
from ocifs.mount.record import PackRecord
from ocifs.options import Options
from ocifs.store import Store
from tests import faults, images
from tests.shortage import no_threads
from tests.tars import file, tar

MIB = 1 << 20
KIB = 1 << 10
CONTENT = random.Random(1).randbytes(3 * MIB)
LAYERS = tuple(images.Layer(tar([file(b"data", CONTENT[number:])]), "gzip") for number in range(2))
HOT = (0, 0, 200 * KIB)
PACKED = 232 * KIB
"""What a pack has of it: 32 KiB more."""
LATE = (1, 2 * MIB, 2 * MIB + 100 * KIB)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return images.write_layout(tmp_path / "image", images.Image(layers=LAYERS))


@contextmanager
def opened(layout: Path, store: Store) -> Iterator[tuple[Image, Handoff]]:
    with open_image(layout, Options(store=store)) as image:
        assert store.opened is not None
        cache = CacheDirectory(store.opened.fd, store.max_size)
        yield image, Handoff.of(image.rootfs, source_of(image.hot_pack(64 * MIB)), cache)


def record(
    layout: Path, store: Store, *found: tuple[int, int, int], limit: int = MIB, is_scan: bool = False
) -> PackRecord:
    """Save reads as the pack builder does in its process."""
    with opened(layout, store) as (image, handoff):
        bases = image.rootfs.served.bases
        name = pack_name(image.layers)
        job = PackJob(
            rootfs=handoff,
            reads=[(bases[layer] + begin, end - begin) for layer, begin, end in found],
            is_scan=is_scan,
            limit=limit,
            kind=name.kind.name,
            version=name.kind.version,
            subject=name.subject,
        )
        return save_recording(job)


def sizes(saved: PackRecord) -> tuple[int, int]:
    return saved.size, saved.added


def spoil(layout: Path) -> None:
    for blob in (layout / "blobs/sha256").iterdir():
        if blob.stat().st_size > MIB:
            blob.write_bytes(bytes(blob.stat().st_size))


@contextmanager
def started(layout: Path, store: Store, limit: int = MIB) -> Iterator[Rootfs]:
    with opened(layout, store) as (_, handoff), handoff.open(SpanCache()) as rootfs:
        hot = HotStart(handoff, rootfs, limit)
        yield rootfs
        hot.finish()


def read(rootfs: Rootfs, layer: int, begin: int, end: int) -> bytes | None:
    """Return the bytes of a stream, None if they cannot be read; they must be right."""
    served = rootfs.served
    try:
        data = b"".join(served.views(end - begin, served.bases[layer] + begin))
    except InvalidImageError:
        return None
    assert data == LAYERS[layer].tar[begin:end]
    return data


def pack_path(store: Store) -> Path:
    assert store.directory is not None
    (path,) = (store.directory / "entries").glob(f"{PACK.name}{PACK.version}-*")
    return path


def test_what_is_recorded_is_read_without_spans(layout: Path, store: Store) -> None:
    assert sizes(record(layout, store, HOT)) == (PACKED, PACKED)
    assert sizes(record(layout, store, HOT, LATE)) == (PACKED + 132 * KIB, 132 * KIB)
    spoil(layout)
    with started(layout, store) as rootfs:
        assert read(rootfs, *HOT)
        assert read(rootfs, *LATE)
        assert read(rootfs, 0, PACKED - KIB, PACKED + KIB) is None
        assert read(rootfs, 1, 0, 1) is None


def test_little_is_not_saved(layout: Path, store: Store) -> None:
    assert record(layout, store, (0, 0, MIN_RECORDING - 4096)) == PackRecord()
    assert [entry.kind for entry in store.entries() if entry.kind.startswith("pack")] == []
    record(layout, store, HOT)
    before = pack_path(store).stat().st_mtime_ns
    record(layout, store, HOT, (1, 0, MIN_RECORDING - 4096))
    assert pack_path(store).stat().st_mtime_ns == before


def test_a_scan_does_not_extend_a_pack(layout: Path, store: Store) -> None:
    assert record(layout, store, (0, 0, 3 * MIB), is_scan=True).size == MIB
    assert record(layout, store, (1, 0, 3 * MIB), is_scan=True) == PackRecord()


def test_the_first_start_takes_the_place_of_a_scan(layout: Path, store: Store) -> None:
    record(layout, store, (0, 0, 3 * MIB), is_scan=True)
    assert sizes(record(layout, store, LATE)) == (132 * KIB, 132 * KIB)
    assert record(layout, store, (0, 0, 3 * MIB), is_scan=True) == PackRecord()


def test_a_refuted_layer_is_not_read_from_the_pack(layout: Path, store: Store) -> None:
    record(layout, store, HOT)
    with started(layout, store) as rootfs:
        assert read(rootfs, *HOT)
        for layer in rootfs.served.layers:
            layer.conclude("it lied")
        assert read(rootfs, *HOT) is None
        assert rootfs.served.views_at_hand(10, rootfs.served.bases[0]) is None


@pytest.mark.parametrize(("refuted", "stored"), [(None, 1), ("it lied", 0)])
def test_the_page_cache_gets_nothing_of_a_refuted_layer(
    layout: Path, store: Store, refuted: str | None, stored: int
) -> None:
    record(layout, store, (1, 0, 200 * KIB))
    pages: list[tuple[int, bytes]] = []
    with started(layout, store) as rootfs:
        assert read(rootfs, 1, 0, 200 * KIB)  # decodes the pack
        if refuted is not None:
            rootfs.served.layers[1].conclude(refuted)
        nid = rootfs.lookup("/data")
        HotFiles(rootfs, lambda inode, offset, data: pages.append((offset, data))).store(nid, nid)
    assert len(pages) == stored
    assert all(data == CONTENT[1 + offset :][: len(data)] for offset, data in pages)


@pytest.mark.parametrize(("most", "stored"), [(1, 1), (0, 0)])
def test_the_page_cache_gets_a_bounded_number_of_files(layout: Path, store: Store, most: int, stored: int) -> None:
    record(layout, store, (1, 0, 200 * KIB))
    pages: list[int] = []
    with started(layout, store) as rootfs:
        assert read(rootfs, 1, 0, 200 * KIB)
        nid = rootfs.lookup("/data")
        files = HotFiles(rootfs, lambda inode, offset, data: pages.append(inode), most)
        for inode in (1, 2, 1):
            files.store(inode, nid)
    assert len(pages) == stored


def test_without_a_bound_there_is_neither_pack_nor_recording(layout: Path, store: Store) -> None:
    record(layout, store, HOT)
    with started(layout, store, 0) as rootfs:
        assert (rootfs.served.pack, rootfs.served.recording) == (None, None)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-5000],
    "truncated, but marked as complete": lambda data: data[:5000] + data[-200:],
    "not written": lambda data: bytes(len(data) - 200) + data[-200:],
    "half written": lambda data: data[: len(data) // 2].ljust(len(data) - 200, b"\0") + data[-200:],
    "other bytes": lambda data: data[:3000] + bytes(byte ^ 1 for byte in data[3000:-200]) + data[-200:],
    "another version": lambda data: data.replace(b"ocifshp1", b"ocifshp0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_pack_is_ignored_and_made_again(layout: Path, store: Store, damage: str) -> None:
    record(layout, store, HOT)
    path = pack_path(store)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with started(layout, store) as rootfs:
        assert read(rootfs, *HOT)
        assert read(rootfs, *LATE)
    assert record(layout, store, HOT).added == PACKED
    spoil(layout)
    with started(layout, store) as rootfs:
        assert read(rootfs, *HOT)
        assert read(rootfs, *LATE) is None


def test_a_pack_of_another_image_is_ignored_and_made_again(layout: Path, store: Store, tmp_path: Path) -> None:
    record(layout, store, HOT)
    other = images.write_layout(tmp_path / "other", images.Image(layers=LAYERS[::-1]))
    foreign = Store(tmp_path / "foreign")
    record(other, foreign, HOT)
    # With its own footer, which names another image, and with a right one.
    for data in (
        pack_path(foreign).read_bytes(),
        pack_path(foreign).read_bytes()[:-200] + pack_path(store).read_bytes()[-200:],
    ):
        pack_path(store).write_bytes(data)
        with started(layout, store) as rootfs:
            assert read(rootfs, *HOT)
        assert record(layout, store, HOT).added == PACKED


def test_a_mount_with_a_smaller_bound_uses_a_part_of_a_pack_and_keeps_it(layout: Path, store: Store) -> None:
    record(layout, store, HOT)
    record(layout, store, LATE)
    spoil(layout)
    with started(layout, store, 250 * KIB) as rootfs:
        assert read(rootfs, *HOT)
        assert read(rootfs, *LATE) is None
    layout_again(layout)
    assert record(layout, store, HOT, (1, 0, 200 * KIB), limit=250 * KIB) == PackRecord()
    spoil(layout)
    with started(layout, store) as rootfs:
        assert read(rootfs, *HOT)
        assert read(rootfs, *LATE)


def layout_again(layout: Path) -> None:
    for layer in LAYERS:
        (layout / images.blob_path(images.digest(layer.blob))).write_bytes(layer.blob)


@pytest.mark.parametrize(("call", "code"), [("pwrite", errno.ENOSPC), ("pwrite", errno.EIO), ("fsync", errno.EIO)])
def test_a_disk_that_takes_no_pack_keeps_the_last_one(layout: Path, store: Store, call: str, code: int) -> None:
    record(layout, store, HOT)
    before = pack_path(store).read_bytes()
    with pytest.raises(StoreError, match=os.strerror(code)):
        faults.refusing(call, code, lambda: record(layout, store, HOT, LATE))
    assert pack_path(store).read_bytes() == before
    assert [path.name for path in pack_path(store).parent.iterdir() if path.suffix == ".tmp"] == []


def test_a_blob_that_changed_before_the_recording_is_saved_is_left_out(layout: Path, store: Store) -> None:
    record(layout, store, HOT)
    spoil(layout)
    assert record(layout, store, HOT, LATE) == PackRecord()
    with started(layout, store) as rootfs:
        assert read(rootfs, *HOT)


def test_what_was_read_of_a_refuted_layer_is_not_saved(layout: Path, store: Store) -> None:
    with opened(layout, store) as (_, handoff), handoff.open(SpanCache()) as rootfs:
        hot = HotStart(handoff, rootfs, MIB)
        recording = rootfs.served.recording
        assert recording is not None
        recording.note(200 * KIB, rootfs.served.bases[0])
        rootfs.served.layers[0].conclude("it lied")
        assert hot._build(recording) is None


def test_without_a_thread_the_served_file_is_closed(layout: Path, store: Store) -> None:
    class Opened:
        def open_served_file(self, released: Callable[[], None]) -> int:
            return fd

    with opened(layout, store) as (_, handoff), handoff.open(SpanCache()) as rootfs:
        fd = os.open("/", os.O_PATH)
        hot = HotStart(handoff, rootfs, MIB)
        with no_threads():
            hot.start(Opened())  # type: ignore[arg-type] # all that it asks of the engine
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        hot.finish()
