"""A blob that is filled from elsewhere by the spans that are read."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocifs.compression import MAX_SPAN
from ocifs.errors import InvalidImageError, RegistryError
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.index import LayerIndex
from ocifs.layer.layer import Layer
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.span_cache import SpanCache
from ocifs.layer.verification import fetch_all, verify_blob, verify_index
from ocifs.limits import DEFAULT_LIMITS
from ocifs.reader import BytesReader
from ocifs.sources.registry.peer import BlobOrigin, NoRangesError
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Kind, Store
from ocifs.store.sparse import finish_sparse, open_sparse
from tests import images

TAR = images.tar({f"file{number}": os.urandom(700_000) for number in range(12)})
BLOB = images.Layer(TAR).blob
ORIGIN = BlobOrigin(peers=(), path="", digest="", size=len(BLOB))


class Far:
    """A blob far away, that notes what is asked of it."""

    def __init__(self, data: bytes = BLOB) -> None:
        self.data = data
        self.size = len(data)
        self.asked: list[tuple[int, int]] = []
        self.before: Callable[[], None] = lambda: None
        self.others: list[bytes] = []

    def pread(self, size: int, offset: int) -> bytes:
        self.asked.append((offset, size))
        self.before()
        return self.data[offset : offset + size]

    def stream(self, start: int = 0) -> Iterator[bytes]:
        self.asked.append((0, self.size))
        yield self.data[:1000]
        yield self.data[1000:]

    def distrust(self) -> bool:
        if not self.others:
            return False
        self.data = self.others.pop(0)
        return True


@pytest.fixture(scope="module")
def index() -> LayerIndex:
    layer = LayerBlob(Digest.of(BLOB), DiffID(Digest.of(TAR)), BytesReader(BLOB))
    return open_layer_index(layer, Store(None), DEFAULT_LIMITS, lambda message: None, lambda *_: None)


@pytest.fixture
def far() -> Far:
    return Far()


@pytest.fixture
def blob(far: Far, tmp_path: Path) -> Iterator[LazyBlob]:
    file = open_sparse(
        Store(tmp_path), Kind("part", 1), Kind("blob", 1, checked=False), str(Digest.of(BLOB)), len(BLOB)
    )
    yield LazyBlob(file.fd, file.size, lambda: ORIGIN, lambda: far)
    file.close()


def span(index: LayerIndex, number: int) -> bytes:
    offset, size = index.stored_range(number)
    return BLOB[offset : offset + size]


def test_a_span_is_fetched_once(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    assert index.span_count > 6
    for _ in range(2):
        assert blob.span(index, 3) == span(index, 3)
    assert far.asked == [index.stored_range(3)]
    assert os.fstat(blob.fd).st_blocks * 512 < 2 * index.stored_range(3)[1]


def test_what_is_here_is_here_for_everybody(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    other = LazyBlob(blob.fd, blob.size, lambda: ORIGIN, lambda: far)
    blob.span(index, 2)
    assert other.span(index, 2) == span(index, 2)
    assert len(far.asked) == 1


def test_damage_is_fetched_again(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    blob.span(index, 2)
    os.pwrite(blob.fd, b"damage", index.stored_range(2)[0] + 5)
    assert blob.span(index, 2) == span(index, 2)
    assert len(far.asked) == 2


def test_who_goes_forward_fetches_more_at_a_time(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    blob._worthwhile = 2 << 20
    for number in range(index.span_count):
        assert blob.span(index, number) == span(index, number)
    assert 2 <= len(far.asked) < index.span_count * 3 / 4
    assert sum(size for _, size in far.asked) < len(BLOB) + 100
    assert max(size for _, size in far.asked) <= MAX_SPAN + (1 << 20)


def test_who_jumps_about_fetches_no_more_than_that(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    blob._worthwhile = 2 << 20
    for number in (5, 1, 3):
        blob.span(index, number)
    assert far.asked == [index.stored_range(number) for number in (5, 1, 3)]


def test_many_want_the_same(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    gate = threading.Barrier(2)

    def wait() -> None:
        gate.wait(5)

    far.before = wait
    got: list[bytes] = []
    readers = [threading.Thread(target=lambda: got.append(blob.span(index, 4))) for _ in range(5)]
    for reader in readers:
        reader.start()
    gate.wait(5)
    for reader in readers:
        reader.join()
    assert got == [span(index, 4)] * 5
    assert len(far.asked) == 1


def test_other_bytes_are_not_kept(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    far.data = bytes(len(BLOB))
    for _ in range(2):
        with pytest.raises(InvalidImageError, match="the registry returns other bytes"):
            blob.span(index, 1)
    assert os.fstat(blob.fd).st_blocks == 0
    far.data = BLOB
    assert blob.span(index, 1) == span(index, 1)


def test_other_bytes_are_asked_for_elsewhere(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    far.data, far.others = bytes(len(BLOB)), [BLOB]
    assert blob.span(index, 1) == span(index, 1)


def test_a_failure_is_told_and_the_next_read_tries_again(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    def fail() -> None:
        raise RegistryError("gone")

    far.before = fail
    with pytest.raises(RegistryError, match="gone"):
        blob.span(index, 1)
    far.before = lambda: None
    assert blob.span(index, 1) == span(index, 1)


def test_a_slow_failure_is_cached_for_a_second(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    now = 1000.0

    def fail() -> None:
        nonlocal now
        now += 2.1
        raise RegistryError("gone")

    blob = LazyBlob(blob.fd, blob.size, lambda: ORIGIN, lambda: far, lambda: now)
    far.before = fail
    for _ in range(3):
        with pytest.raises(RegistryError, match="gone"):
            blob.span(index, 1)
    assert len(far.asked) == 1
    far.before = lambda: None
    assert blob.span(index, 2) == span(index, 2)
    now += 1.1
    assert blob.span(index, 1) == span(index, 1)


def test_all_of_it_once_from_a_registry_without_ranges(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    def refuse() -> None:
        raise NoRangesError("whole blobs only")

    far.before = refuse
    for number in range(index.span_count):
        assert blob.span(index, number) == span(index, number)
    assert len(far.asked) == 2


def test_a_disk_that_is_full_costs_only_time(index: LayerIndex, far: Far) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    try:
        blob = LazyBlob(full, len(BLOB), lambda: ORIGIN, lambda: far)
        blob.pread = lambda size, offset: b""  # type: ignore[method-assign]
        assert [blob.span(index, 1) for _ in range(2)] == [span(index, 1)] * 2
        assert len(far.asked) == 2
    finally:
        os.close(full)


# All of it, and whether it is true


def layer_of(index: LayerIndex, blob: LazyBlob) -> Layer:
    return Layer(0, index, blob, SpanCache(), published="sha256:…")


def nothing(_size: int) -> None:
    """Do not wait."""


def test_all_is_fetched_and_proven(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    layer = layer_of(index, blob)
    blob.span(index, 3)
    fetch_all(layer, nothing)
    verify_blob(layer, nothing)
    verify_index(layer, nothing)
    assert blob.pread(len(BLOB), 0) == BLOB
    assert sum(size for _, size in far.asked) < len(BLOB) + 100
    fetch_all(layer, nothing)
    assert sum(size for _, size in far.asked) < len(BLOB) + 100


def test_a_blob_with_another_tail_is_refuted(index: LayerIndex, blob: LazyBlob, far: Far) -> None:
    layer = layer_of(index, blob)
    fetch_all(layer, nothing)
    os.pwrite(blob.fd, b"?", len(BLOB) - 1)
    with pytest.raises(InvalidImageError, match="its bytes have the digest"):
        verify_blob(layer, nothing)


def test_an_index_with_other_entries_is_refuted(
    index: LayerIndex, blob: LazyBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(index, blob)
    entries = list(index.entries())
    monkeypatch.setattr(index, "entries", lambda: iter(entries[1:]))
    with pytest.raises(InvalidImageError, match="its index has other entries than its tar stream"):
        verify_index(layer, nothing)


def test_a_refuted_layer_gives_nothing_more(index: LayerIndex, blob: LazyBlob) -> None:
    layer = layer_of(index, blob)
    assert layer.pread(10, 512) == TAR[512:522]
    layer.conclude("it lied")
    assert layer.views_at_hand(10, 512) is None
    with pytest.raises(InvalidImageError, match="it lied"):
        layer.pread(10, 512)


# The file


PART, WHOLE = Kind("part", 1, checked=False), Kind("blob", 1, checked=False)
SUBJECT = str(Digest.of(b"a blob"))


def test_a_finished_file_becomes_an_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with_part = open_sparse(store, PART, WHOLE, SUBJECT, 100_000)
    os.pwrite(with_part.fd, b"abc", 50_000)
    assert store.load(WHOLE, SUBJECT) is None
    assert store.entries()[0].size < 10_000
    finish_sparse(with_part.fd, WHOLE, SUBJECT, 100_000)
    again = open_sparse(store, PART, WHOLE, SUBJECT, 100_000)
    assert (again.size, again.pread(3, 50_000)) == (100_000, b"abc")
    entry = store.load(WHOLE, SUBJECT)
    assert entry is not None
    assert [entry.kind for entry in store.entries()] == ["blob1"]
    for file in (with_part, again, entry):
        file.close()


def test_a_file_that_was_damaged_is_made_right(tmp_path: Path) -> None:
    store = Store(tmp_path)
    open_sparse(store, PART, WHOLE, SUBJECT, 1000).close()
    (path,) = (tmp_path / "entries").iterdir()
    path.write_bytes(b"x" * 5000)
    file = open_sparse(store, PART, WHOLE, SUBJECT, 1000)
    assert file.pread(2000, 0) == b"x" * 1000
    finish_sparse(file.fd, WHOLE, SUBJECT, 1000)
    again = open_sparse(store, PART, WHOLE, SUBJECT, 1000)
    assert [entry.kind for entry in store.entries()] == ["blob1"]
    assert again.pread(2000, 0) == b"x" * 1000
    for each in (file, again):
        each.close()


@pytest.mark.parametrize("claimed", [0, 10, 999, 5000])
def test_another_size_of_the_same_blob_is_another_file(tmp_path: Path, claimed: int) -> None:
    store = Store(tmp_path)
    file = open_sparse(store, PART, WHOLE, SUBJECT, 1000)
    os.pwrite(file.fd, b"abc", 990)
    other = open_sparse(store, PART, WHOLE, SUBJECT, claimed)
    assert other.pread(claimed, 0) == bytes(claimed)
    assert (os.fstat(file.fd).st_size, file.pread(3, 990)) == (1000, b"abc")
    again = open_sparse(store, PART, WHOLE, SUBJECT, 1000)
    assert again.pread(3, 990) == b"abc"
    for each in (file, other, again):
        each.close()


def test_without_a_directory_it_is_in_memory() -> None:
    file = open_sparse(Store(None), PART, WHOLE, SUBJECT, 1000)
    assert file.pread(1000, 0) == bytes(1000)
    file.close()
