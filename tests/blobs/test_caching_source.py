"""Images from a registry: fetched once, and read while they come."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.blobs import caching_source as kept
from ocifs.blobs.caching_source import open_cached
from ocifs.blobs.download import BLOB, Download
from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, RegistryError, ShortageError, StoreError
from ocifs.image.opening import open_image
from ocifs.image.verification import verify_image
from ocifs.options import Options
from ocifs.sources.reference import parse_reference
from ocifs.sources.registry.access import Access
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.images import Image, Layer, layout_files, tar
from tests.registry import SECRET, Registry, cut, redirect, running, slowly, status, wrong_bytes
from tests.shortage import no_threads

pytestmark = pytest.mark.usefixtures("alone")

BIG = tar({f"file{number}": bytes([number]) * 400_000 for number in range(5)})


class Scripted:
    """A blob that comes when it is told to."""

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


def test_whoever_waits_is_told_of_the_end(store: Store) -> None:
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


def test_a_defect_reaches_whoever_waits(store: Store) -> None:
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
    assert remote.others == others  # nobody else is to blame
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


def test_what_nobody_has_right_leaves_nothing(store: Store) -> None:
    remote = Scripted(b"abcdef")
    remote.others = 1
    begun(store, remote, b"x")
    blob = download(remote, store)
    remote.give(b"bcdef", b"abcdeX", b"abcdeY")
    with pytest.raises(InvalidImageError, match="the registry sent wrong bytes for blob"):
        blob.in_file()
    assert remote.streams == [1, 0, 0]
    assert entries(store) == []


def test_what_cannot_be_read_is_fetched_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Scripted(b"abcdef")
    path = begun(store, remote, b"abc")
    pread = os.pread

    def dying(fd: int, size: int, offset: int) -> bytes:
        if not remote.streams and os.readlink(f"/proc/self/fd/{fd}") == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", dying)
    blob = download(remote, store)
    remote.give(b"abcdef")
    assert blob.pread(6, 0) == b"abcdef"
    blob.close()


def test_stopping_tells_whoever_waits(store: Store) -> None:
    remote = Scripted(b"abcdef")
    blob = download(remote, store)
    threading.Timer(0.1, blob.stop).start()
    with pytest.raises(OcifsError, match="interrupted"):
        blob.in_file()
    remote.give(b"abcdef")


@pytest.mark.parametrize("most", [2000, 4000])
def test_a_full_disk_takes_no_large_blob_into_memory(store: Store, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(kept, "_MEMORY_MOST", most)
    remote = Scripted(b"x" * 3000)
    pwrite = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if "memfd" not in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    blob = download(remote, store)
    remote.give(b"x" * 3000)
    if most < 3000:
        with pytest.raises(StoreError, match=r"the cache has no room for blob sha256:.* of 3000 bytes"):
            blob.in_file()
        assert entries(store) == []
    else:
        assert blob.in_file().pread(3000, 0) == b"x" * 3000
    blob.close()


def test_two_want_the_same(store: Store) -> None:
    remote = Scripted(b"abcdef")
    blobs = [download(remote, store) for _ in range(2)]
    remote.give(b"abcdef")
    assert [blob.in_file().pread(6, 0) for blob in blobs] == [b"abcdef"] * 2
    assert remote.streams == [0]
    for blob in blobs:
        blob.close()


# Whole images


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as registry:
        registry.add("app", layout_files(Image((Layer(BIG), Layer(BIG, "zstd"), Layer(BIG, "tar"), Layer(BIG)))))
        yield registry


@pytest.fixture
def reference(registry: Registry) -> str:
    return f"docker://{registry.host}/app"


def content(reference: str, store: Store, access: Access | None = None) -> bytes:
    with open_image(reference, Options(store=store, access=access or Access())) as image:
        return b"".join(image.rootfs.open(f"/file{number}").read(1) for number in range(5))


def test_each_blob_is_fetched_once(registry: Registry, reference: str, store: Store) -> None:
    assert content(reference, store) == bytes(range(5))
    paths = [request.path for request in registry.sent]
    assert len(paths) == len(set(paths)) == 4  # a config, and three layers, one of them twice in the image
    registry.requests.clear()
    assert content(reference, store) == bytes(range(5))
    assert [request.path for request in registry.requests if request.path != "/v2/"] == ["/v2/app/manifests/latest"]


def test_a_digest_that_was_seen_needs_no_network(registry: Registry, reference: str, store: Store) -> None:
    content(reference, store)
    digest = Digest.of(registry.manifests["app"]["latest"].data)
    registry.requests.clear()
    registry.fault(status(500), "")
    assert content(f"{reference}@{digest}", store) == bytes(range(5))
    assert not registry.requests


def test_blobs_that_are_gone_from_the_cache_are_fetched_again(
    registry: Registry, reference: str, store: Store, tmp_path: Path
) -> None:
    content(reference, store)
    for path in (tmp_path / "cache/entries").glob("blob*"):
        path.unlink()
    assert content(reference, store) == bytes(range(5))


def test_a_document_replaces_what_is_left_of_its_download(registry: Registry, reference: str, store: Store) -> None:
    manifest = registry.manifests["app"]["latest"].data
    begun(store, Scripted(manifest), b"{ left")
    assert content(reference, store) == bytes(range(5))
    assert content(f"{reference}@{Digest.of(manifest)}", store) == bytes(range(5))


def test_cuts_and_errors_on_the_way(registry: Registry, reference: str, store: Store) -> None:
    registry.fault(cut(700), times=6)
    registry.fault(status(503), times=3)
    assert content(reference, store) == bytes(range(5))


def test_wrong_bytes_make_no_image(registry: Registry, reference: str, store: Store) -> None:
    layer = Digest.of(Layer(BIG, "tar").blob)
    registry.fault(wrong_bytes, str(layer))
    with pytest.raises(InvalidImageError):
        content(reference, store)
    assert store.load(BLOB, layer) is None
    assert "begun1" not in entries(store)
    registry.faults.clear()
    assert content(reference, store) == bytes(range(5))


def test_wrong_bytes_of_a_mirror(
    registry: Registry, reference: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as mirror:
        mirror.blobs, mirror.manifests = registry.blobs, registry.manifests
        mirror.fault(wrong_bytes)
        (tmp_path / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{registry.host}"\n[[registry.mirror]]\nlocation = "{mirror.host}"\n'
            "insecure = true\n"
        )
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
        assert content(reference, store) == bytes(range(5))
        assert len(mirror.sent) == len(registry.sent) == 4  # a config and three layers of each
        assert content(reference, store) == bytes(range(5))
        assert [check.problem for check in verify_image(reference, Options(store=store))] == [None] * 9
        registry.fault(wrong_bytes)
        with pytest.raises(InvalidImageError):
            content(reference, Store(tmp_path / "other"))
        manifest = Digest.of(registry.manifests["app"]["latest"].data)
        assert [entry.subject for entry in Store(tmp_path / "other").entries()] == [manifest]


def test_a_layer_that_is_missing(registry: Registry, reference: str, store: Store) -> None:
    del registry.blobs["app"][str(Digest.of(Layer(BIG, "zstd").blob))]
    with pytest.raises(NotFoundError, match=r"layer sha256:\w+: 127.* has no blob sha256"):
        content(reference, store)


def test_verify(registry: Registry, reference: str, store: Store) -> None:
    content(reference, store)
    assert [check.problem for check in verify_image(reference, Options(store=store))] == [None] * 9
    del registry.blobs["app"][str(Digest.of(Layer(BIG, "tar").blob))]
    problems = [check.problem for check in verify_image(reference, Options(store=Store(None)))]
    assert len([problem for problem in problems if problem and "has no blob" in problem]) == 2


def test_a_size_that_is_not_the_descriptors(registry: Registry, store: Store) -> None:
    files = layout_files(Image((Layer(descriptor={"size": 7}),)))
    reference = registry.add("sized", files)
    with pytest.raises(InvalidImageError, match="of another size than its descriptor says"):
        content(reference, store)


def test_closing_does_not_wait_for_the_network(registry: Registry, reference: str, store: Store) -> None:
    registry.fault(slowly(1000), str(Digest.of(Layer(BIG, "tar").blob)))
    source = open_cached(parse_reference(reference), store)
    (descriptor,) = source.resolve(parse_reference(reference))
    source.open(descriptor)
    source.close()


def test_no_secret_is_kept(registry: Registry, reference: str, store: Store, tmp_path: Path) -> None:
    with running() as signed:
        signed.blobs = registry.blobs
        registry.fault(redirect(signed.base + "{path}?signature=" + SECRET))
        content(reference, store, Access(credentials="me:s3cr3t-password"))
        assert any(SECRET in request.path for request in signed.requests)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes()


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
