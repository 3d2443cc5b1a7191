"""Downloads: read while they arrive, resumed, and verified by digest."""

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.blobs.download import BLOB, MAX_IN_MEMORY, Download
from ocifs.errors import InvalidImageError, OcifsError, RegistryError, ShortageError, StoreError
from ocifs.spec.digest import Digest
from ocifs.store import Kind, Store
from ocifs.store.entry import file_name, sized
from tests.faults import refusing
from tests.locking import Holder
from tests.shortage import no_threads


class Scripted:
    """A blob that arrives when the test lets it."""

    def __init__(self, data: bytes, digest: Digest | None = None) -> None:
        self.data = data
        self.digest = digest or Digest.of(data)
        self.size = len(data)
        self.pieces: list[bytes | Exception] = []
        self.more = threading.Semaphore(0)
        self.streams: list[int] = []
        """Where each began."""
        self.others = 0
        """Other places to have it from."""

    def give(self, *pieces: bytes | Exception) -> None:
        for piece in pieces:
            self.pieces.append(piece)
            self.more.release()

    def distrust(self) -> bool:
        self.others -= 1
        return self.others >= 0

    def stream(self, start: int = 0) -> Iterator[bytes]:
        self.streams.append(start)
        given = start
        while given < self.size:
            self.more.acquire()
            piece = self.pieces.pop(0)
            if isinstance(piece, Exception):
                raise piece
            given += len(piece)
            yield piece


def download(remote: Scripted, store: Store) -> Download:
    return Download(remote, store, threading.Semaphore(4))


@pytest.mark.parametrize("in_memory", [False, True])
def test_what_is_there_is_read_while_the_rest_comes(store: Store, in_memory: bool) -> None:
    remote = Scripted(b"abcdef")
    blob = download(remote, Store(None) if in_memory else store)
    remote.give(b"abcd")
    assert blob.pread(2, 1) == b"bc"
    assert blob.pread(4, 0) == b"abcd"
    remote.give(b"ef")
    assert blob.pread(100, 3) == b"def"
    assert blob.in_file().pread(6, 0) == b"abcdef"
    blob.close()


def test_nothing_is_a_blob_too(store: Store) -> None:
    blob = download(Scripted(b""), store)
    assert blob.pread(10, 0) == b""
    assert blob.in_file().size == 0
    blob.close()


def test_other_bytes_are_not_kept(store: Store) -> None:
    remote = Scripted(b"abcdef", Digest.of(b"abcdeF"))
    blob = download(remote, store)
    remote.give(b"abcdef")
    with pytest.raises(InvalidImageError, match=r"sent wrong bytes for blob sha256:.*: they have the digest sha256:"):
        blob.in_file()
    with pytest.raises(InvalidImageError):
        blob.pread(1, 0)
    assert store.load(BLOB, remote.digest) is None
    blob.close()


def test_every_waiting_reader_gets_the_error(store: Store) -> None:
    remote = Scripted(b"abcdef")
    blob = download(remote, store)
    remote.give(b"abc", RegistryError("gone"))
    with pytest.raises(RegistryError, match="gone"):
        blob.pread(6, 0)
    again = download(remote, store)
    remote.give(b"def")
    assert again.pread(6, 0) == b"abcdef"
    again.close()
    assert remote.streams == [0, 3]  # it goes on where it ended
    assert entries(store) == ["blob1"]


def test_a_reader_learns_that_the_thread_has_ended_without_a_word(store: Store) -> None:
    """As it does if there is no memory for an error. `SystemExit` ends a thread silently."""

    class Ending(Scripted):
        def stream(self, start: int = 0) -> Iterator[bytes]:
            raise SystemExit

    blob = download(Ending(b"abcdef"), store)
    with pytest.raises(ShortageError, match="its download has ended: out of memory"):
        blob.pread(1, 0)
    with pytest.raises(ShortageError):
        blob.in_file()
    blob.close()


def test_a_download_that_waits_for_another_process_can_be_stopped(store: Store) -> None:
    remote = Scripted(b"abcdef")
    assert store.directory is not None
    begun = file_name(Kind(BLOB.begun, BLOB.version), sized(remote.digest, remote.size))
    with Holder(store.directory / "entries" / begun):
        blob = download(remote, store)
        blob.stop()
        with pytest.raises(OcifsError, match="interrupted"):
            blob.pread(1, 0)
        assert blob._thread.join(30)
        blob.close()


def test_a_defect_reaches_every_waiting_reader(store: Store) -> None:
    class Defective(Scripted):
        def stream(self, start: int = 0) -> Iterator[bytes]:
            self.more.acquire()
            raise ZeroDivisionError

    blob = download(remote := Defective(b"abcdef"), store)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            blob.pread(1, 0)
        except ZeroDivisionError as error:
            told.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    remote.more.release()
    waiting.join(20)
    assert len(told) == 1
    with pytest.raises(ZeroDivisionError):
        blob.in_file()
    blob.close()


def begun(store: Store, remote: Scripted, data: bytes) -> Path:
    """Leave what a killed download of `remote` would."""
    assert store.directory is not None
    path = store.directory / "entries" / f"begun1-{remote.digest.replace(':', '-')}-{remote.size}"
    path.write_bytes(data)
    return path


def entries(store: Store) -> list[str]:
    return [entry.kind for entry in store.entries()]


@pytest.mark.parametrize("left", [b"a", b"abcde", b"abcdef", b"abcdef and a part of a footer"])
def test_what_is_left_of_a_download_is_read_at_once(store: Store, left: bytes) -> None:
    remote = Scripted(b"abcdef")
    begun(store, remote, left)
    blob = download(remote, store)
    there = left[:6]
    assert blob.pread(min(len(there), 5), 0) == there[:5]
    remote.give(*[b"abcdef"[len(there) :]] if len(there) < 6 else [])
    assert blob.in_file().pread(6, 0) == b"abcdef"
    assert remote.streams == [len(there)]
    assert entries(store) == ["blob1"]
    blob.close()


@pytest.mark.parametrize("others", [0, 1])
def test_what_is_left_and_wrong_is_thrown_away(store: Store, others: int) -> None:
    remote = Scripted(b"abcdef")
    remote.others = others
    begun(store, remote, b"xyz")
    blob = download(remote, store)
    assert blob.pread(3, 0) == b"xyz"
    remote.give(b"def", b"abc")
    with pytest.raises(InvalidImageError, match="the registry first sent wrong bytes"):
        blob.pread(3, 3) and blob.pread(1, 0)
    remote.give(b"def")
    assert blob.began_wrong()
    assert blob.pread(6, 0) == b"abcdef"  # all of it is what it should be
    with pytest.raises(InvalidImageError, match="the registry first sent wrong bytes"):
        blob.pread(3, 0)
    assert remote.streams == [0 + 3, 0]
    assert remote.others == others  # no other endpoint is to blame
    assert entries(store) == ["blob1"]
    blob.close()


def test_wrong_bytes_are_fetched_from_the_next_place(store: Store) -> None:
    remote = Scripted(b"abcdef")
    remote.others = 2
    blob = download(remote, store)
    remote.give(b"abcdeX", b"abcdeY", b"abcdef")
    assert blob.pread(6, 0) == b"abcdef"
    assert remote.streams == [0, 0, 0]
    blob.close()


def test_wrong_bytes_from_every_endpoint_leave_nothing(store: Store) -> None:
    remote = Scripted(b"abcdef")
    remote.others = 1
    begun(store, remote, b"x")
    blob = download(remote, store)
    remote.give(b"bcdef", b"abcdeX", b"abcdeY")
    with pytest.raises(InvalidImageError, match="the registry sent wrong bytes for blob"):
        blob.in_file()
    assert remote.streams == [1, 0, 0]
    assert entries(store) == []


def test_what_cannot_be_read_is_fetched_anew(store: Store) -> None:
    remote = Scripted(b"abcdef")
    begun(store, remote, b"abc")
    blob = refusing("pread", errno.EIO, lambda: download(remote, store))
    remote.give(b"abcdef")
    assert blob.pread(6, 0) == b"abcdef"
    blob.close()


def test_stopping_ends_every_wait(store: Store) -> None:
    remote = Scripted(b"abcdef")
    blob = download(remote, store)
    threading.Timer(0.1, blob.stop).start()
    with pytest.raises(OcifsError, match="interrupted"):
        blob.in_file()
    remote.give(b"abcdef")


def test_a_full_disk_takes_no_large_blob_into_memory(small_disk: Path) -> None:
    store = Store(small_disk)
    blob = download(remote := Scripted(bytes(MAX_IN_MEMORY + 1)), store)
    remote.give(bytes(1 << 20))
    with pytest.raises(StoreError, match=r"the cache has no room for blob sha256:.* of 67108865 bytes"):
        blob.in_file()
    assert entries(store) == []


def test_a_full_disk_moves_a_small_blob_into_memory(small_disk: Path) -> None:
    blob = download(remote := Scripted(b"x" * 200_000), Store(small_disk))
    remote.give(b"x" * 200_000)
    assert blob.in_file().pread(200_000, 0) == b"x" * 200_000
    blob.close()


def test_two_want_the_same(store: Store) -> None:
    remote = Scripted(b"abcdef")
    blobs = [download(remote, store) for _ in range(2)]
    remote.give(b"abcdef")
    assert [blob.in_file().pread(6, 0) for blob in blobs] == [b"abcdef"] * 2
    assert remote.streams == [0]
    for blob in blobs:
        blob.close()


@pytest.mark.parametrize("error", [ValueError("a port"), MemoryError(), RuntimeError("a defect")], ids=repr)
def test_whatever_ends_a_download_ends_each_wait_for_it(store: Store, error: Exception) -> None:
    remote = Scripted(b"abcdef")
    blob = download(remote, store)
    remote.give(b"ab", error)
    for _ in range(2):
        with pytest.raises(type(error)):
            blob.pread(2, 3)
        with pytest.raises(type(error)):
            blob.in_file()


def test_a_download_needs_a_thread(store: Store) -> None:
    with no_threads(), pytest.raises(ShortageError, match="no more threads"):
        download(Scripted(b"abcdef"), store)
