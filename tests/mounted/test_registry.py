"""Mounts of images in a registry of which only a part is fetched."""

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from ocifs.hotpack.format import Block, encode_head
from ocifs.image.opening import open_image
from ocifs.indexes.artifact import PACK_TYPE, make_artifact
from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.index_format import encode_tail
from ocifs.options import Options
from ocifs.reader import BytesReader
from ocifs.spec.digest import Digest
from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import MANIFEST, Image, Layer, digest, layout_files, tar, to_json
from tests.indexes.ztoc import independent
from tests.registry import SECRET, Blob, Handler, Registry, basic, hang_up, serving, status
from tests.waiting import wait_for

FIRST, LAST = os.urandom(3_000_000), os.urandom(3_000_000)
LAYER = Layer(tar({"first": FIRST, "middle": os.urandom(16_000_000), "last": LAST}))
IMAGE = Image((LAYER,))


@pytest.fixture
def registry(registry: Registry) -> Registry:
    registry.add("app", layout_files(IMAGE))
    return registry


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    """The blobs of the image and of an index beside it."""
    with serving(IMAGE) as registry:
        publish(registry, lambda index: index.file.pread(index.file.size, 0))
        return registry.blobs["app"]


@pytest.fixture
def image(registry: Registry, published: dict[str, bytes]) -> str:
    """An image with an index beside it."""
    registry.blobs["app"] |= published
    return f"docker://{registry.host}/app"


def publish(registry: Registry, alter: Callable[[LayerIndex], bytes]) -> None:
    reference = f"docker://{registry.host}/app"
    with open_image(reference, Options(lazy=False)) as opened:
        data = alter(opened.indexes[0])
        index = open_index(BytesReader(data))  # type: ignore[arg-type]
        manifest, blobs = make_artifact(opened.resolved, [index])
        opened.source.referrers().attach(opened.resolved.descriptor, manifest, blobs)


def fetched(registry: Registry) -> list[str]:
    """The ranges of the layer that were asked for."""
    return [request.range for request in registry.sent if str(Digest.of(LAYER.blob)) in request.path]


def can_mark(ocifs: Ocifs) -> bool:
    try:
        os.setxattr(ocifs.cache, "user.x", b"")
    except OSError:
        return False
    return True


def state(ocifs: Ocifs) -> dict[str, object]:
    (mount,) = [
        each for each in json.loads(ocifs.output("mounts", "--json")) if each["state"] == "mounted" and each["pid"]
    ]
    return dict(mount)


def test_only_what_is_read_is_fetched(ocifs: Ocifs, registry: Registry, image: str, engine: str) -> None:
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:
        assert sorted(os.listdir(mnt)) == ["first", "last", "middle"]
        assert not fetched(registry)
        with (mnt / "last").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            assert file.read(1000) == LAST[:1000]
        ranges = fetched(registry)
        assert ranges
        assert all(int(each[6:].partition("-")[0]) > 15_000_000 for each in ranges)
        assert ", unverified" in ocifs.output("mounts")


def test_what_was_read_needs_no_network_any_more(ocifs: Ocifs, registry: Registry, image: str, engine: str) -> None:
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:
        assert (mnt / "first").read_bytes() == FIRST
        registry.fault(status(404), "")
        assert (mnt / "first").read_bytes() == FIRST
        with (mnt / "last").open("rb") as file, pytest.raises(OSError, match="Input/output error") as caught:
            file.read(1)
        assert caught.value.errno == errno.EIO
        registry.faults.clear()
        assert (mnt / "last").read_bytes() == LAST  # nothing is poisoned
    assert "has no blob sha256" in ocifs.log.read_text()
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:
        registry.fault(status(404), "/blobs/")
        assert (mnt / "first").read_bytes() == FIRST


def test_the_rest_is_fetched_and_proven_in_the_background(
    ocifs: Ocifs, registry: Registry, image: str, engine: str
) -> None:
    with ocifs.mounted(image, "--engine", engine) as mnt:
        wait_for(lambda: state(ocifs)["layers"][0]["verified_at"] is not None)  # type: ignore[index]
        assert "unverified" not in ocifs.output("mounts")
        registry.fault(status(404), "")
        assert (mnt / "first").read_bytes() == FIRST
        assert (mnt / "last").read_bytes() == LAST
    registry.faults.clear()
    kinds = ocifs.output("cache", "ls")
    assert "part1" in kinds
    assert "layer2" not in kinds
    by_digest = f"{image}@{Digest.of(registry.manifests['app']['latest'].data)}"
    ocifs.output("ls", image)
    kinds = ocifs.output("cache", "ls")
    assert "part1" not in kinds
    if not can_mark(ocifs):
        pytest.skip("no extended attributes here")
    assert "layer2" in kinds
    registry.fault(status(404), "")
    with ocifs.mounted(by_digest, "--engine", engine) as mnt:
        assert "unverified" not in ocifs.output("mounts")
        assert (mnt / "last").read_bytes() == LAST


def read_last(mountpoint: Path) -> None:
    """Read a part of the last file, without readahead."""
    with (mountpoint / "last").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert file.read(200_000) == LAST[:200_000]


def fetches_of_pack(registry: Registry) -> list[Any]:
    """The requests for the published pack."""
    return [each for each in registry.sent if any(digest in each.path for digest in packs(registry))]


def test_what_was_read_first_is_published_and_fetched_in_one_request(
    ocifs: Ocifs, registry: Registry, image: str, engine: str
) -> None:
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:
        read_last(mnt)
        wait_for(lambda: state(ocifs)["hot_pack"] is not None)
        assert state(ocifs)["hot_pack"]["kind"] == "ppack1"  # type: ignore[index]
        ocifs.output("index", "push", "--record", mnt, image)
        assert "is not a mount of this image" in ocifs.run("index", "push", "--record", "/", image).err
    kinds = ocifs.output("cache", "ls")
    assert "pack1 " in kinds.replace("ppack1 ", "")
    ocifs.output("cache", "clear")
    registry.requests.clear()
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:
        read_last(mnt)
        assert not fetched(registry)
        assert len(fetches_of_pack(registry)) == 1
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:  # now it is in the cache
        read_last(mnt)
        assert not fetched(registry)
        assert len(fetches_of_pack(registry)) == 1
    with ocifs.mounted(image, "--engine", engine) as mnt:
        wait_for(lambda: any(each["kind"] == "pack1" for each in json.loads(ocifs.output("cache", "ls", "--json"))))
        assert state(ocifs)["refuted"] is None
        read_last(mnt)


def publish_pack(registry: Registry, alter: Callable[[bytes], bytes], stream: str | None = None) -> str:
    """Publish the index with a pack of bytes of the last file, altered before it is packed; return the reference.

    `stream` is the layer that the pack claims to be of, in place of the image's.
    """
    reference = f"docker://{registry.host}/app"
    with open_image(reference, Options(lazy=False)) as opened:
        (layer,) = opened.layers
        begin = LAYER.tar.index(LAST[:512]) // 4096 * 4096
        data = [alter(LAYER.tar[at : at + 65536]) for at in range(begin, begin + 262144, 65536)]
        blocks = [
            Block(0, begin + number * 65536, 65536, hashlib.sha256(each).digest()) for number, each in enumerate(data)
        ]
        stored = zstandard.compress(b"".join(data))
        pack = encode_head((stream or layer.index.stream,), [(blocks, len(stored))], ()) + stored
        manifest, blobs = make_artifact(opened.resolved, opened.indexes, pack)
        opened.source.referrers().attach(opened.resolved.descriptor, manifest, blobs)
    return reference


def assert_refuted(ocifs: Ocifs, mountpoint: Path) -> None:
    """Wait until the mount is refuted: no read succeeds any more."""
    wait_for(lambda: state(ocifs)["refuted"] is not None)
    assert "mounted, refuted" in ocifs.output("mounts")
    with (mountpoint / "middle").open("rb") as file, pytest.raises(OSError, match="Input/output error") as caught:
        file.read(1)
    assert caught.value.errno == errno.EIO


def test_a_published_pack_that_lied_is_refuted(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    image = publish_pack(registry, lambda data: bytes(len(data)))
    with ocifs.mounted(image, "--engine", engine) as mnt:
        assert_refuted(ocifs, mnt)
    assert "differ from those of layer" in ocifs.log.read_text()
    assert "pack1" not in ocifs.output("cache", "ls")
    ocifs.output("cache", "prune", "--max-size", "1")
    registry.requests.clear()
    again = ocifs.home / "again"
    again.mkdir()
    mounted = ocifs.run("mount", "--engine", engine, image, again)
    assert mounted.code == 0
    assert "is not used: it is refuted: hot pack: " in mounted.err
    assert (again / "first").read_bytes() == FIRST
    assert not fetches_of_pack(registry)
    ocifs.output("umount", again)


def test_a_published_pack_of_other_layers_is_ignored(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    """It says nothing about this image, so it refutes nothing."""
    image = publish_pack(registry, lambda data: bytes(len(data)), stream=str(Digest.of(b"other")))
    registry.requests.clear()
    with ocifs.mounted(image, "--engine", engine) as mnt:
        read_last(mnt)
        wait_for(lambda: len(fetches_of_pack(registry)) == 1)
        wait_for(lambda: state(ocifs)["layers"][0]["verified_at"] is not None)  # type: ignore[index]
        assert state(ocifs)["refuted"] is None
        assert (mnt / "last").read_bytes() == LAST
    assert "FAIL  published pack" in ocifs.run("verify", image).text


def test_a_published_pack_that_does_not_come_is_not_waited_for(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    image = publish_pack(registry, bytes)
    registry.fault(status(404), packs(registry)[0])
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:
        read_last(mnt)
        assert fetched(registry)


def packs(registry: Registry) -> list[str]:
    """The digests of the published packs."""
    documents = [*registry.blobs["app"].values(), *(each.data for each in registry.manifests["app"].values())]
    return [
        layer["digest"]
        for data in documents
        if data.startswith(b"{") and PACK_TYPE.encode() in data
        for layer in json.loads(data)["layers"]
        if layer["mediaType"] == PACK_TYPE
    ]


def lie(index: LayerIndex) -> bytes:
    """Swap the bytes of two files; every span is what it is said to be."""
    first, middle, last = index.toc()
    entries = [
        msgspec.structs.replace(first, offset=last.offset),
        middle,
        msgspec.structs.replace(last, offset=first.offset),
    ]
    data = index.file.pread(index.data_size, 0)
    return data + encode_tail(entries, index.summary, len(data))


def test_an_index_that_lied_is_refuted(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    publish(registry, lie)
    image = f"docker://{registry.host}/app"
    with ocifs.mounted(image, "--engine", engine) as mnt:
        assert_refuted(ocifs, mnt)
    assert "its index has other entries than its tar stream" in ocifs.log.read_text()
    assert_not_used_again(ocifs, image, engine)


def assert_not_used_again(ocifs: Ocifs, image: str, engine: str) -> None:
    """Mount an image again whose published index was refuted: it has an index of its own."""
    ocifs.output("cache", "prune", "--max-size", "1")
    assert "is not used: it is refuted: " in ocifs.run("ls", "--trust-index", image).err
    with ocifs.mounted(image, "--engine", engine) as mnt:
        assert state(ocifs)["layers"][0]["index"] is None  # type: ignore[index]
        assert (mnt / "first").read_bytes() == FIRST
    assert ocifs.run("cache", "clear").code == 0
    assert "is not used" not in ocifs.run("ls", image).err


# An index that SOCI's own tools might have made


def publish_ztoc(registry: Registry, **changes: Any) -> None:
    ztoc = independent.write(LAYER.blob, LAYER.tar, spacing=4 << 20, **changes)
    subject = registry.manifests["app"]["latest"].data
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.amazon.soci.index.v1+json", "digest": digest(b"{}"), "size": 2},
        "layers": [
            {
                "mediaType": "application/octet-stream",
                "digest": digest(ztoc),
                "size": len(ztoc),
                "annotations": {"com.amazon.soci.image-layer-digest": digest(LAYER.blob)},
            }
        ],
        "subject": {"mediaType": MANIFEST, "digest": digest(subject), "size": len(subject)},
    }
    registry.blobs["app"] |= {digest(each): each for each in (ztoc, to_json(manifest))}


def test_a_ztoc_is_enough_for_a_mount(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    publish_ztoc(registry)
    image = f"docker://{registry.host}/app"
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:
        assert state(ocifs)["layers"][0]["index"].startswith("soci-v1 sha256:")  # type: ignore[index]
        assert sorted(os.listdir(mnt)) == ["first", "last", "middle"]
        assert len(fetched(registry)) == 1  # the last bytes of the blob
        assert (mnt / "first").read_bytes() == FIRST
        ranges = [each.removeprefix("bytes=").split("-") for each in fetched(registry)]
        assert sum(int(last) - int(first) + 1 for first, last in ranges) < len(LAYER.blob) * 2 / 5
        assert (mnt / "last").read_bytes() == LAST
        assert (mnt / "middle").stat().st_size == 16_000_000
    with ocifs.mounted(image, "--engine", engine) as mnt:
        wait_for(lambda: state(ocifs)["layers"][0]["verified_at"] is not None)  # type: ignore[index]
        assert (mnt / "first").read_bytes() == FIRST


def test_a_ztoc_that_lied_is_refuted(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    entries = independent.entries_of(LAYER.tar)
    entries[0]["name"], entries[2]["name"] = entries[2]["name"], entries[0]["name"]
    publish_ztoc(registry, entries=entries)
    with ocifs.mounted(f"docker://{registry.host}/app", "--engine", engine) as mnt:
        wait_for(lambda: state(ocifs)["refuted"] is not None)
        assert "has other entries than its tar stream" in str(state(ocifs)["refuted"])
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (mnt / "first").read_bytes()
    assert_not_used_again(ocifs, f"docker://{registry.host}/app", engine)


def test_secrets_stay_out_of_log_and_record(ocifs: Ocifs, registry: Registry, image: str, engine: str) -> None:
    registry.fault(basic("me", "s3cr3t-password"), "/v2/app/")
    options = ("--engine", engine, "--no-prefetch", "--creds", "me:s3cr3t-password")
    with ocifs.mounted(image, *options) as mnt:
        assert (mnt / "first").read_bytes() == FIRST
        registry.faults.clear()
        registry.fault(status(403), "")
        with (mnt / "last").open("rb") as file, pytest.raises(OSError, match="Input/output error"):
            file.read(1)
        for path in ocifs.home.rglob("*"):
            if path.is_file() and not path.is_relative_to(mnt):
                assert b"s3cr3t" not in path.read_bytes()
    assert SECRET not in ocifs.log.read_text()


def test_credentials_that_expire(ocifs: Ocifs, registry: Registry, image: str, engine: str, tmp_path: Path) -> None:
    """Reads fail as long as the registry refuses them, and no longer: the mount finds a new login by itself."""
    password = "old"

    def guard(handler: Handler, blob: Blob) -> None:
        basic("me", password)(handler, blob)

    registry.fault(guard, "/v2/app/")
    authfile = tmp_path / "auth.json"

    def log_in() -> None:
        authfile.write_text(json.dumps({"auths": {registry.host: {"username": "me", "password": password}}}))

    log_in()
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch", "--authfile", str(authfile)) as mnt:
        assert (mnt / "first").read_bytes() == FIRST
        password = "new"
        with (mnt / "last").open("rb") as file, pytest.raises(OSError, match="Input/output error"):
            file.read(1)
        assert "refuses" in ocifs.log.read_text()
        log_in()

        def is_read() -> bool:
            try:
                return (mnt / "last").read_bytes() == LAST
            except OSError:
                return False

        wait_for(is_read)


@pytest.mark.parametrize("seconds", [2, 6, 12][: depth(1, 3)])
def test_network_away_for_a_while(ocifs: Ocifs, registry: Registry, image: str, engine: str, seconds: int) -> None:
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch") as mnt:
        assert (mnt / "first").read_bytes() == FIRST
        began = time.monotonic()

        def away(handler: Handler, blob: Blob) -> None:
            if time.monotonic() < began + seconds:
                hang_up(handler, blob)
            else:
                handler.serve(blob)

        registry.fault(away)
        assert (mnt / "first").read_bytes() == FIRST
        assert (mnt / "last").read_bytes() == LAST
        assert seconds <= time.monotonic() - began < 30
