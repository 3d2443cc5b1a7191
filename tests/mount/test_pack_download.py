"""A published pack arrives, or does not: reads yield right bytes in any case, soon, and false ones are found."""

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ocifs.blobs.download import BLOB, PART
from ocifs.errors import InvalidImageError
from ocifs.hotpack.format import PackTable
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.mount.pack_download import PackDownload
from ocifs.store import Store
from ocifs.store.entry import sized
from tests import faults
from tests.mount.published import (
    COLD,
    FIRST,
    KIB,
    MIB,
    SECOND,
    THIRD,
    Published,
    Start,
    publish,
    right,
    stall_after,
    start_of,
    started,
)
from tests.registry import Act, Registry, cut, slowly, status

ALL = [FIRST, SECOND, THIRD, COLD]


def damaged(number: int) -> Callable[[bytes, PackTable], bytes]:
    """Damage a frame, and let the digest of the blob be that of the result."""

    def damage(data: bytes, table: PackTable) -> bytes:
        at = table.frames[number].offset + table.frames[number].stored // 2
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return damage


def false_first(data: bytes) -> bytes:
    """Alter the first block only."""
    return bytes(len(data)) if data == right(FIRST) else data


def is_idle(start: Start) -> bool:
    return not start.rootfs.served.is_fetching_pack


def test_a_pack_arrives_in_one_request_and_is_used_again(registry: Registry, store: Store) -> None:
    published = publish(registry)
    for _ in range(2):
        with started(published.reference, store) as start:
            start.wait()
            assert [start.read(each) for each in ALL] == list(map(right, ALL))
            assert start.rootfs.served.pack is not None
            assert start.rootfs.served.pack.fault is None
        assert published.requests == [""]


# False bytes


def end_after(size: int) -> Callable[[Published], None]:
    """Let the request end early, and none succeed after it."""

    def end(published: Published) -> None:
        published.fault(cut(size), times=1)
        published.fault(status(404))

    return end


@pytest.mark.parametrize("how", ["damaged", "cut"])
def test_false_bytes_that_were_served_refute_whatever_follows(registry: Registry, store: Store, how: str) -> None:
    published = publish(registry, false_first, damaged(1)) if how == "damaged" else publish(registry, false_first)
    if how == "cut":
        end_after(published.frames[1] + 5)(published)
    with started(published.reference, store) as start:
        start.wait()
        pack = start.rootfs.served.pack
        assert pack is not None
        assert pack.frame(1) is None
        assert pack.fault is not None
        assert pack.has_served  # so the kernel may have false pages
        assert [start.read(each) for each in ALL] == list(map(right, ALL))
        with pytest.raises(InvalidImageError, match=r"hot pack: bytes 0\.\.131072 differ from those of layer"):
            start.verify()


@pytest.mark.parametrize("again", [status(404), stall_after(0)])
def test_false_bytes_that_another_process_has_served_refute(registry: Registry, store: Store, again: Act) -> None:
    """The first worker has died, and the next one does not get the pack."""
    published = publish(registry, false_first)
    end_after(published.frames[1] + 5)(published)
    with started(published.reference, store) as start:
        start.wait()
        registry.faults.clear()
        published.fault(again)
        refuted = pytest.raises(InvalidImageError, match="differ from those of layer")
        with start_of(start.handoff, resumed=True) as second, refuted:
            second.verify()


def test_a_false_block_is_found_before_it_has_arrived(registry: Registry, store: Store) -> None:
    published = publish(registry, lambda data: bytes(len(data)) if data == right(THIRD) else data)
    published.fault(stall_after(published.frames[1]))
    with started(published.reference, store) as start:
        assert start.rootfs.served.pack is not None
        assert start.rootfs.served.pack.table() is not None
        with pytest.raises(InvalidImageError, match="differ from those of layer"):
            start.verify()


def test_a_pack_whose_head_has_not_arrived_is_not_used_once_the_layers_are_verified(
    registry: Registry, store: Store
) -> None:
    published = publish(registry, false_first)
    published.fault(stall_after(20))
    with started(published.reference, store, before=Start.be_impatient) as start:
        assert [start.read(each) for each in ALL] == list(map(right, ALL))
        start.verify()
        assert start.rootfs.served.pack is not None
        assert start.rootfs.served.pack.fault == "its head arrives too late"


# Slow links


@pytest.mark.parametrize("frames", [0, 1])
@pytest.mark.parametrize("act", [stall_after, lambda size: slowly(2000)])
def test_a_pack_that_stalls_or_trickles_delays_no_read_for_long(
    registry: Registry, store: Store, frames: int, act: Callable[[int], Act]
) -> None:
    published = publish(registry)
    published.fault(act(published.frames[frames] + 5))
    with started(published.reference, store, before=Start.be_impatient) as start:
        assert [start.read(each) for each in ALL] == list(map(right, ALL))
        assert start.rootfs.served.pack is not None
        assert start.rootfs.served.pack.fault is None
        assert not is_idle(start)


def test_all_readers_get_their_bytes_while_a_head_does_not_arrive(registry: Registry, store: Store) -> None:
    published = publish(registry)
    published.fault(stall_after(0))
    with started(published.reference, store, before=Start.be_impatient) as start:
        readers = [threading.Thread(target=start.read, args=[each]) for each in ALL * 4]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
            assert not reader.is_alive()


# What is there already


def test_a_download_goes_on_where_the_last_one_ended(registry: Registry, store: Store) -> None:
    published = publish(registry)
    end_after(published.frames[1] + 5)(published)
    with started(published.reference, store) as start:
        start.wait()
    registry.faults.clear()
    with started(published.reference, store) as start:
        start.wait()
        assert start.hot._download is not None
        assert start.hot._download.is_complete
        assert [start.read(each) for each in ALL] == list(map(right, ALL))
    end = published.frames[-1] - 1
    assert published.requests[0] == ""
    assert published.requests[-1] == f"bytes={published.frames[1]}-{end}"


def test_what_is_damaged_in_the_cache_is_fetched_again(registry: Registry, store: Store) -> None:
    published = publish(registry)
    end_after(published.frames[2] + 5)(published)
    with started(published.reference, store) as start:
        start.wait()
    registry.faults.clear()
    assert store.directory is not None
    size = published.frames[-1]
    path = store.directory / "entries" / f"part1-{published.digest.replace(':', '-')}-{size}"
    data = bytearray(path.read_bytes())
    data[published.frames[1] + 9] ^= 1
    path.write_bytes(data)
    with started(published.reference, store) as start:
        start.wait()
        assert [start.read(each) for each in ALL] == list(map(right, ALL))
    assert published.requests[-1] == f"bytes={published.frames[1]}-{size - 1}"


def test_the_next_worker_fetches_nothing_that_is_there(registry: Registry, store: Store) -> None:
    published = publish(registry)
    with started(published.reference, store) as start:
        start.wait()
        with start_of(start.handoff, resumed=True) as second:
            assert second.hot._download is None
            assert [second.read(each) for each in ALL] == list(map(right, ALL))
            second.verify()
        assert published.requests == [""]


def test_a_mount_is_busy_only_until_its_pack_has_arrived(registry: Registry, store: Store) -> None:
    published = publish(registry)
    go = threading.Event()

    def wait(handler: Any, blob: Any) -> None:
        go.wait(60)
        handler.serve(blob)

    published.fault(wait)
    with started(published.reference, store) as start:
        assert not is_idle(start)
        assert start.hot.is_arriving()
        go.set()
        start.wait()
        assert not start.hot.is_arriving()


# Packs that are of no use


ZEROS = tuple((0, at, at + 128 * KIB) for at in range(1004 * KIB, 1388 * KIB, 128 * KIB))
"""Their stored bytes are within the bound of a mount, but not their decoded ones."""

NO_USE: dict[str, tuple[dict[str, Any], int, str]] = {
    "other layers": ({"of": lambda layers: layers[::-1]}, 64 * MIB, "it belongs to other layers"),
    "another version": ({"damage": lambda data, table: data.replace(b"ocifshp1", b"ocifshp0")}, 64 * MIB, "version"),
    "a damaged head": (
        {"damage": lambda data, table: data[:60] + bytes([data[60] ^ 1]) + data[61:]}, 64 * MIB, "its head is damaged",
    ),
    "over the bound": ({"found": ZEROS}, 300 * KIB, "it has 393216 bytes, more than 307200"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_USE)
def test_a_pack_of_no_use_is_fetched_up_to_its_head(registry: Registry, store: Store, name: str) -> None:
    """The rest of it does not even come."""
    arguments, limit, why = NO_USE[name]
    published = publish(registry, **arguments)
    published.fault(stall_after(published.frames[0] + 5))
    with started(published.reference, store, limit, before=Start.be_impatient) as start:
        start.wait()
        assert [start.read(each) for each in ALL] == list(map(right, ALL))
        assert start.rootfs.served.pack is not None
        assert why in str(start.rootfs.served.pack.fault)
        start.verify()
    assert len(published.requests) == 1


def test_a_pack_that_is_larger_than_the_bound_is_not_fetched(registry: Registry, store: Store) -> None:
    published = publish(registry)
    with started(published.reference, store, 300 * KIB) as start:
        assert start.rootfs.served.pack is None
        assert [start.read(each) for each in ALL] == list(map(right, ALL))
    assert published.requests == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_takes_no_pack(registry: Registry, store: Store, code: int) -> None:
    published = publish(registry)
    with started(published.reference, store) as start:
        start.wait()
    assert store.directory is not None
    for path in (store.directory / "entries").glob("part1-*"):
        path.unlink()
    with started(published.reference, store) as start:
        start.wait()  # with other descriptors
        file, pack = start.rootfs.served.pack_file, start.rootfs.served.pack
        assert isinstance(file, LazyBlob)
        assert pack is not None
        assert start.handoff.pack is not None
        assert start.handoff.pack.head is not None
        os.ftruncate(file.fd, 0)
        download = PackDownload(file, start.handoff.pack.head)
        faults.refusing("pwrite", code, lambda: download.run(pack))
        assert not download.is_complete
        assert [start.read(each) for each in ALL] == list(map(right, ALL))


# Packs that are refuted


@pytest.mark.parametrize("starts", [1, 2])
@pytest.mark.parametrize("arrives", [True, False])
def test_a_refuted_pack_does_not_stay_in_the_cache(
    registry: Registry, store: Store, starts: int, arrives: bool
) -> None:
    published = publish(registry, false_first)
    if not arrives:
        end_after(published.frames[2] + 5)(published)
    for number in range(starts):
        with started(published.reference, store) as start:
            start.wait()
            assert store.has(BLOB, published.digest) or store.has(PART, sized(published.digest, published.frames[-1]))
            if number + 1 == starts:
                start.hot.drop()
    assert not store.has(BLOB, published.digest)
    assert not store.has(PART, sized(published.digest, published.frames[-1]))


def test_a_finished_pack_that_was_damaged_is_fetched_again(registry: Registry, store: Store) -> None:
    published = publish(registry)
    for _ in range(2):
        with started(published.reference, store) as start:
            start.wait()
    assert store.directory is not None
    (path,) = (store.directory / "entries").glob(f"blob1-{published.digest.replace(':', '-')}")
    data = bytearray(path.read_bytes())
    data[published.frames[1] + 9] ^= 1
    path.write_bytes(data)
    with started(published.reference, store) as start:
        assert start.hot._download is None
        assert [start.read(each) for each in ALL] == list(map(right, ALL))
        start.hot._decode()
    with started(published.reference, store) as start:
        start.wait()
        assert [start.read(each) for each in ALL] == list(map(right, ALL))
    assert published.requests == ["", ""]


def kinds(store: Store) -> set[str]:
    return {entry.kind for entry in store.entries()} & {"pack1", "ppack1"}


def test_a_pack_that_was_compared_becomes_that_of_the_verified_layers(registry: Registry, store: Store) -> None:
    published = publish(registry)
    with started(published.reference, store) as start:
        start.wait()
        assert kinds(store) == set()
        start.verify()
    assert kinds(store) == {"pack1"}
