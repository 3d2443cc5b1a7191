"""What a mount of an image in a registry learns extends a published pack, and is kept once the layers are verified."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.cli.verbs import run
from ocifs.errors import InvalidImageError
from ocifs.hotpack.format import BLOCK_MAX, PackTable, read_table
from ocifs.hotpack.recording import Range
from ocifs.image.chain import chain_of
from ocifs.image.hot_pack import PACK, UNVERIFIED_PACK, PackName, load_pack, pack_name, save_published, streams_of
from ocifs.image.opening import open_image
from ocifs.image.served_file import ServedFile
from ocifs.mount.pack_builder import result_of
from ocifs.mount.record import PackRecord
from ocifs.options import Options
from ocifs.reader import BytesReader
from ocifs.store import Store
from tests import faults
from tests.hotpack.packs import forged, opened, pack_of, save
from tests.images import Image, layout_files, write_layout
from tests.mount.published import (
    COLD,
    FIRST,
    KIB,
    LAYERS,
    MIB,
    SECOND,
    THIRD,
    Start,
    publish,
    right,
    stall_after,
    started,
)
from tests.registry import Registry, status
from tests.tocs import estargz
from tests.waiting import wait_for

ALL = [FIRST, SECOND, THIRD, COLD]


def record(start: Start, *found: Range) -> PackRecord | None:
    """Save reads by the process that does so; None if they are not saved."""
    recording = start.rootfs.served.recording
    assert recording is not None
    for layer, begin, end in found:
        start.read((layer, begin, end))  # so that the cache has their spans
        recording.note(end - begin, start.rootfs.served.bases[layer] + begin)
    process = start.hot._build(recording)
    return None if process is None else result_of(process)


def kinds(store: Store) -> set[str]:
    return {entry.kind for entry in store.entries()} & {"pack1", "ppack1"}


def only_from_the_pack(start: Start) -> list[bytes | None]:
    """Return the bytes that the pack has."""
    pack = start.rootfs.served.pack
    assert pack is not None
    found = []
    for layer, begin, end in ALL:
        views = pack.views(layer, end - begin, begin)
        found.append(None if views is None else b"".join(views))
    return found


def test_a_recording_extends_a_published_pack(registry: Registry, store: Store) -> None:
    """So the next start decodes no span of what the published pack has."""
    published = publish(registry)
    with started(published.reference, store) as start:
        start.wait()
        saved = record(start, COLD)
        assert saved is not None
        assert (saved.kind, saved.size) == (
            "ppack1",
            (2 * 128 + 100) * KIB + (200 + 32) * KIB,
        )
    with started(published.reference, store) as start:
        assert only_from_the_pack(start) == list(map(right, ALL))
    assert published.requests == [""]


def test_a_recording_beside_a_part_of_a_published_pack_is_not_saved(registry: Registry, store: Store) -> None:
    """It lacks what was read from that part, and would be preferred to the published pack."""
    published = publish(registry)
    published.fault(stall_after(published.frames[1]))
    with started(published.reference, store) as start:
        assert start.rootfs.served.pack is not None
        assert start.rootfs.served.pack.frame(0) is not None
        assert record(start, COLD) is None
    assert kinds(store) == set()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_recording_beside_a_pack_that_was_not_used_is_saved(registry: Registry, store: Store, damaged: bool) -> None:
    published = publish(registry, of=lambda layers: layers[::-1])
    if damaged:
        published.fault(status(404))
    with started(published.reference, store) as start:
        start.wait()
        saved = record(start, COLD)
        assert saved is not None
        assert saved.size == 232 * KIB


def test_what_was_learnt_is_kept_once_the_layers_are_verified(registry: Registry, store: Store) -> None:
    published = publish(registry)
    with started(published.reference, store) as start:
        start.wait()
        assert record(start, COLD) is not None
        assert kinds(store) == {"ppack1"}
        start.verify()
        assert kinds(store) == {"pack1"}
        assert pack_name(start.layers).is_verified
        found = load_pack(store, start.layers)
        assert found is not None
        table = read_table(found[1], streams_of(start.layers), 64 * MIB)
        found[1].close()
        assert {FIRST, SECOND} <= {
            (each.layer, each.offset, each.end) for frame in table.frames for each in frame.blocks
        }
        assert len(table.recordings) == 1


def test_what_an_earlier_mount_has_learnt_is_kept(registry: Registry, store: Store) -> None:
    """It has ended before its layers were verified, as after `ocifs run`."""
    published = publish(registry)
    with started(published.reference, store) as start:
        start.wait()
        assert record(start, COLD) is not None
    with started(published.reference, store) as start:
        assert start.rootfs.served.pack is not None
        start.verify()
    assert kinds(store) == {"pack1"}


def test_false_bytes_that_were_learnt_refute_the_mount_that_uses_them(registry: Registry, store: Store) -> None:
    published = publish(registry)
    with open_image(published.reference, Options(store=store)) as image:
        assert pack_name(image.layers).kind == UNVERIFIED_PACK
        save(store, image.layers, forged(image.layers, [FIRST, (*COLD[:2], COLD[1] + BLOCK_MAX)], bytes.swapcase))
    with started(published.reference, store) as start, pytest.raises(InvalidImageError, match="differ from those"):
        start.verify()


def test_false_bytes_that_were_learnt_elsewhere_are_dropped(registry: Registry, store: Store) -> None:
    published = publish(registry)
    with started(published.reference, store) as start:
        start.wait()
        save(store, start.layers, forged(start.layers, [FIRST], bytes.swapcase))
        start.verify()
    assert kinds(store) == set()


def record_cold_start(start: Start) -> ServedFile:
    """Read what the pack lacks, and wait until its recording is being saved."""
    served = start.rootfs.served
    assert served.recording is not None
    start.read(COLD)
    served.recording.note(COLD[2] - COLD[1], served.bases[0] + COLD[1])
    served.recording.end()
    wait_for(lambda: served.is_saving or start.reported != [])
    return served


def test_what_is_saved_while_the_layers_are_verified_is_kept(registry: Registry, store: Store) -> None:
    """Whichever ends first."""
    published = publish(registry)
    with started(published.reference, store) as start:
        start.wait()
        served = record_cold_start(start)
        start.verify()
        wait_for(lambda: not served.is_saving)
        assert kinds(store) == {"pack1"}
        assert start.reported[-1].kind == "pack1"
    with started(published.reference, store) as start:
        assert only_from_the_pack(start) == list(map(right, ALL))


def test_what_is_saved_while_the_mount_is_refuted_is_dropped(registry: Registry, store: Store) -> None:
    published = publish(registry, bytes.swapcase)
    with started(published.reference, store) as start:
        start.wait()
        served = record_cold_start(start)
        for layer in start.layers:
            layer.conclude("it lied")
        start.hot.drop()
        wait_for(lambda: not served.is_saving)
        assert kinds(store) == set()


def test_a_pack_that_was_not_compared_yet_adds_nothing_to_that_of_verified_layers(
    registry: Registry, store: Store
) -> None:
    published = publish(registry, bytes.swapcase)
    with started(published.reference, store) as start:
        start.wait()
        for layer in start.layers:
            layer.conclude()
        saved = record(start, COLD)
        assert saved is not None
        assert saved.kind == "ppack1"
        with pytest.raises(InvalidImageError, match="differ from those of layer"):
            start.hot.verify(lambda size: None)
        start.hot.drop()
    assert kinds(store) == set()


# The pack of verified layers


def test_a_file_that_changes_while_it_is_saved_is_not_saved(tmp_path: Path, store: Store) -> None:
    """Other mounts may write what a registry sends to the same file."""
    with open_image(write_layout(tmp_path / "image", Image(LAYERS)), Options(store=store)) as image:
        data = pack_of(image.layers, [FIRST, SECOND])
        file, table = opened(image.layers, data)
        changed = BytesReader(data[: table.frames[0].offset] + bytes(len(data) - table.frames[0].offset))
        with pytest.raises(InvalidImageError, match="hot pack: frame 0 is damaged"):
            save_published(store, image.layers, changed, table)
        assert kinds(store) == set()
        save_published(store, image.layers, file, table)
        assert kinds(store) == {"pack1"}


def test_what_a_published_pack_states_of_its_recordings_is_not_saved(tmp_path: Path, store: Store) -> None:
    with open_image(write_layout(tmp_path / "image", Image(LAYERS)), Options(store=store)) as image:
        file, table = opened(image.layers, pack_of(image.layers, [FIRST, SECOND]))
        stated = PackTable(table.streams, table.frames, ((1 << 60, 1),), table.start, table.end, table.size)
        save_published(store, image.layers, file, stated)
        found = load_pack(store, image.layers)
        assert found is not None
        ((when, blocks),) = read_table(found[1], streams_of(image.layers), MIB).recordings
        found[1].close()
        assert when < 1 << 40
        assert blocks == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_keeps_what_is_unverified(registry: Registry, store: Store, code: int) -> None:
    published = publish(registry)
    with started(published.reference, store) as start:
        start.wait()
        assert record(start, COLD) is not None
        faults.refusing("fsync", code, start.verify)
        assert kinds(store) == {"ppack1"}


def test_a_damaged_pack_hides_no_other(registry: Registry, store: Store) -> None:
    published = publish(registry)
    with open_image(published.reference, Options(store=store)) as image:
        verified = PackName(PACK, str(chain_of(image.layers)))
        store.get(*verified, lambda out: out.write(b"damaged"), anew=True).close()
        found = image.hot_pack(64 * MIB)
        assert found is not None
        assert found.digest == published.digest
        save(store, image.layers, pack_of(image.layers, [FIRST]))
        found = image.hot_pack(64 * MIB)
        assert found is not None
        assert (found.digest, found.verified) == (None, False)


def test_the_pack_of_the_tars_does_not_hide_that_of_the_chunks(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    """Layers that are read by their TOC have the same chain, but other streams."""
    layer = estargz(LAYERS[0].tar)
    reference = registry.add("app", layout_files(Image((layer,))))
    with open_image(reference, Options(store=store, lazy=False)) as tars:
        save(store, tars.layers, pack_of(tars.layers, [FIRST]))
    with open_image(reference, Options(store=Store(tmp_path / "without indexes"))) as chunks:
        assert not chunks.layers[0].verification.is_verified
        assert load_pack(store, chunks.layers) is None
        save(store, chunks.layers, pack_of(chunks.layers, [FIRST]))
        found = load_pack(store, chunks.layers)
        assert found is not None
        found[1].close()


# Commands


def ocifs(store: Store, *arguments: str) -> None:
    assert run(["index", arguments[0], "--cache-dir", str(store.directory), *arguments[1:]], None) == 0


def test_pull_fetches_the_pack_for_a_later_mount(registry: Registry, store: Store) -> None:
    published = publish(registry)
    ocifs(store, "pull", published.reference)
    assert published.requests == [""]
    with started(published.reference, store) as start:
        assert start.hot._download is None
        assert only_from_the_pack(start) == [*map(right, ALL[:3]), None]
    assert published.requests == [""]


def test_an_index_is_pulled_without_its_pack_if_that_is_missing(
    registry: Registry, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    published = publish(registry)
    published.fault(status(404))
    ocifs(store, "pull", published.reference)
    assert "its hot pack cannot be fetched" in capsys.readouterr().err


@pytest.mark.parametrize("alter", [bytes, bytes.swapcase])
def test_a_plain_push_publishes_what_mounts_have_learnt_if_it_is_right(
    registry: Registry, store: Store, alter: Callable[[bytes], bytes]
) -> None:
    """Also of a mount that has verified nothing."""
    published = publish(registry, has_pack=False)
    with started(published.reference, store) as start:
        if alter is bytes:
            assert record(start, COLD) is not None
        else:
            save(store, start.layers, forged(start.layers, [FIRST], alter))
    ocifs(store, "push", published.reference)
    with open_image(published.reference, Options(store=Store(None))) as image:
        assert (image.hot_pack(64 * MIB) is not None) == (alter is bytes)
