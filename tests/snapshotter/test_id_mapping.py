"""Snapshots in a user namespace, as containerd 2 requests them: it maps the lower directories itself."""

import os
from pathlib import Path

import grpc
import pytest

from ocifs.options import Options
from ocifs.snapshotter.directories import Owner
from ocifs.snapshotter.id_mapping import id_mapping
from ocifs.snapshotter.status import SnapshotError
from ocifs.store import Store
from tests.images import Image, Layer
from tests.registry import Registry
from tests.snapshotter.client import running, status_of
from tests.snapshotter.pulling import Containerd, publish
from tests.tars import directory, file, tar

UIDS, GIDS = "containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"
MAPPED = {UIDS: "0:100000:65536", GIDS: "0:200000:65536"}


def test_the_owner_of_the_writes_is_the_mapped_one() -> None:
    mapping = id_mapping({UIDS: "0:100000:5,5:7:1", GIDS: "0:200000:65536"})
    assert mapping is not None
    assert mapping.shift(Owner(5, 6, 0o700)) == Owner(7, 200006, 0o700)
    assert mapping.options() == ("uidmap=0:100000:5,5:7:1", "gidmap=0:200000:65536")
    assert id_mapping({}) is None
    with pytest.raises(SnapshotError, match="lacks 6"):
        mapping.shift(Owner(6, 6))


@pytest.mark.parametrize("text", ["", "x", "0:0", "0:0:0", "-1:0:1", "0:4294967295:2", "0:0:1,", "0:0:1\n", "0:0:1:2"])
def test_malformed_mappings(text: str) -> None:
    with pytest.raises(SnapshotError) as caught:
        id_mapping({UIDS: text, GIDS: "0:0:1"})
    assert caught.value.status == "INVALID_ARGUMENT"


def test_snapshots_on_an_image(registry: Registry, tmp_path: Path, root: None, engine: str) -> None:
    with running(tmp_path, Options(store=Store(tmp_path / "cache")), engine=engine) as snapshotter:
        containerd = Containerd(snapshotter.client, tmp_path)
        image = publish(registry, "app", Image((Layer(tar([directory(b"./", uid=3), file(b"f")])),)))
        containerd.pull(image)
        top = containerd.names[image.chains[-1]]
        if engine == "fuse":
            with pytest.raises(grpc.RpcError, match="cannot be mapped to a user namespace") as caught:
                snapshotter.client.prepare("c", top, MAPPED)
            assert status_of(caught) == "FAILED_PRECONDITION"
            assert snapshotter.client.walk("kind==active") == []
            return
        (mount,) = snapshotter.client.prepare("c", top, MAPPED)
        assert {"uidmap=0:100000:65536", "gidmap=0:200000:65536"} <= set(mount.options)
        assert snapshotter.client.mounts("c") == [mount]
        image_at = snapshotter.snapshots.images.mountpoint(image.chains[-1])
        assert f"lowerdir={image_at}/" in mount.options  # containerd 2.1 maps the directory up to the last slash
        status = os.stat(snapshotter.snapshots._directories.files(snapshotter.snapshots.metadata.get("c").id))
        assert (status.st_uid, status.st_gid) == (100003, 200000)

        snapshotter.client.prepare("unpacking", top)
        snapshotter.client.commit("unpacked", "unpacking")
        with pytest.raises(grpc.RpcError, match="publish an index of the image") as caught:
            snapshotter.client.prepare("d", "unpacked", MAPPED)
        assert status_of(caught) == "FAILED_PRECONDITION"
        assert snapshotter.client.names("kind==active") == ["c"]
        snapshotter.client.prepare("d", "unpacked")


def test_unpacked_snapshots(registry: Registry, tmp_path: Path, root: None) -> None:
    with running(tmp_path) as snapshotter:
        snapshotter.client.prepare("a")
        snapshotter.client.commit("b", "a")
        (mount,) = snapshotter.client.prepare("c", "b", MAPPED)
        files = snapshotter.snapshots._directories.files(snapshotter.snapshots.metadata.get("b").id)
        assert {"uidmap=0:100000:65536", f"lowerdir={files}"} <= set(mount.options)
