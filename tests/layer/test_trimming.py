"""Indexes of the quick pass are trimmed in the cache, once, and still yield the same bytes."""

import errno
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from ocifs.errors import InvalidImageError, StoreError
from ocifs.layer import trimming
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.index import LayerIndex, index_in
from ocifs.layer.index_format import KIND, join_tail
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import Limits
from ocifs.reader import FileReader
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Kind, Store, Writer
from tests import faults, images, tars

WORDS = [random.Random(number).randbytes(number % 9 + 2) for number in range(3000)]
TAR = tars.tar([tars.file(b"words", b"".join(random.Random(0).choices(WORDS, k=600_000)))])
BLOB = images.Layer(TAR, "gzip").blob
DIGEST = Digest(images.digest(BLOB))


@pytest.fixture
def blob(tmp_path: Path) -> Iterator[FileReader]:
    path = tmp_path / "blob"
    path.write_bytes(BLOB)
    fd = os.open(path, os.O_RDONLY)
    yield FileReader(fd)
    os.close(fd)


@pytest.fixture
def store(tmp_path: Path, blob: FileReader) -> Store:
    """A store with an index whose windows are not trimmed yet."""
    found = Store(tmp_path / "cache")
    layer = LayerBlob(DIGEST, DiffID(Digest(images.digest(TAR))), blob)
    index = open_layer_index(layer, found, Limits(), lambda message: None, lambda layer, done, total: None)

    def build(out: Writer) -> None:
        data = index.file.pread(index.data_size, 0)
        out.write(data)
        out.write(join_tail(index.packed_toc(), replace(index.summary, untrimmed=True), len(data)))

    found.get(KIND, DIGEST, build, anew=True).close()
    os.close(index.file.fd)
    return found


def opened(store: Store) -> LayerIndex:
    file = store.load(KIND, DIGEST)
    assert file is not None
    index = index_in(file, DIGEST)
    assert index is not None
    return index


def read_all(index: LayerIndex, blob: FileReader) -> bytes:
    """Read each span from its checkpoint, and by continuing the one before."""
    return b"".join(Layer(0, index, blob, SpanCache()).stream())


def test_an_index_is_trimmed_in_the_cache(store: Store, blob: FileReader) -> None:
    before = opened(store)
    layers = [Layer(0, before, blob, SpanCache())]
    assert store.directory is not None
    trimming.main(trimming.arguments(store.directory, store.max_size, {DIGEST: blob}))
    after = opened(store)
    assert not after.summary.untrimmed
    assert after.file.size < before.file.size * 2 // 3
    assert after.toc() == before.toc()
    assert read_all(after, blob) == read_all(layers[0].index, blob) == TAR
    inode = os.fstat(after.file.fd).st_ino
    trimming.main(trimming.arguments(store.directory, store.max_size, {DIGEST: blob}))
    assert os.fstat(opened(store).file.fd).st_ino == inode


@pytest.mark.parametrize(("max_size", "entries"), [(10 << 30, 2), (1, 1)])
def test_the_process_has_the_size_of_the_cache(store: Store, blob: FileReader, max_size: int, entries: int) -> None:
    store.get(Kind("other", 1), DIGEST, lambda out: out.write(b"old")).close()
    assert store.directory is not None
    trimming.main(trimming.arguments(store.directory, max_size, {DIGEST: blob}))
    assert len(store.entries()) == entries


def test_what_is_published_is_trimmed_first(store: Store, blob: FileReader) -> None:
    layer = Layer(0, opened(store), blob, SpanCache())
    with ExitStack() as stack:
        index = trimming.trimmed(store, layer, stack)
        assert not index.summary.untrimmed
        assert trimming.trimmed(store, Layer(0, index, blob, SpanCache()), stack) is index


def test_a_blob_that_has_changed_leaves_the_index_as_it_is(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "changed"
    path.write_bytes(BLOB[:50_000] + bytes(len(BLOB) - 50_000))
    before = opened(store)
    with path.open("rb") as file, pytest.raises(InvalidImageError, match="blob has changed"):
        trimming.trim_entry(store, DIGEST, FileReader(file.fileno()))
    after = opened(store)
    assert after.summary == before.summary
    assert len(list((tmp_path / "cache/entries").iterdir())) == 1


def test_what_is_published_is_trimmed_where_the_cache_takes_nothing(store: Store, blob: FileReader) -> None:
    before = opened(store)

    def trim() -> bool:
        with ExitStack() as stack:
            return trimming.trimmed(store, Layer(0, before, blob, SpanCache()), stack).summary.untrimmed

    assert not faults.refusing("rename", errno.EROFS, trim)
    assert opened(store).summary == before.summary


def test_a_full_disk_keeps_the_old_index(store: Store, blob: FileReader) -> None:
    """The process after a mount takes no memory instead."""
    before = opened(store)
    assert store.directory is not None
    arguments = trimming.arguments(store.directory, store.max_size, {DIGEST: blob})
    with pytest.raises(StoreError, match=os.strerror(errno.ENOSPC)):
        faults.refusing("pwrite", errno.ENOSPC, lambda: trimming.main(arguments))
    assert opened(store).summary == before.summary


def test_without_an_entry_there_is_nothing_to_trim(tmp_path: Path, blob: FileReader) -> None:
    empty = Store(tmp_path / "empty")
    trimming.trim_entry(empty, DIGEST, blob)
    assert empty.load(KIND, DIGEST) is None
