"""Nodes that cannot mount an image: containerd unpacks it, because it fetches no layer that was answered before."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.options import Options
from ocifs.snapshotter.mounting import Mounting
from ocifs.snapshotter.pulls import Pulls
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.images import Image, Layer
from tests.registry import Registry
from tests.snapshotter.client import Snapshotter, running
from tests.snapshotter.pulling import TARGET, Containerd, Published, cri_labels, publish
from tests.tars import file, tar

IMAGE = Image((Layer(tar([file(b"base", b"base")])), Layer(tar([file(b"top", b"top")]))))
CONTENT = {"base": "base", "top": "top"}


@pytest.fixture
def snapshotter(tmp_path: Path, service: None) -> Iterator[Snapshotter]:
    options = Options(store=Store(tmp_path / "cache"))
    with running(tmp_path, options, engine="erofs", settings={"service": True}) as snapshotter:
        yield snapshotter


@pytest.fixture
def image(registry: Registry) -> Published:
    return publish(registry, "app", IMAGE)


def content(path: Path) -> dict[str, str]:
    return {each: (path / each).read_text() for each in sorted(os.listdir(path))}


def test_an_image_that_cannot_be_mounted_is_unpacked(
    snapshotter: Snapshotter, image: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the reason: here the mountpoint is no directory. No layer is answered before the mount."""
    mountpoint = snapshotter.root / "images" / Digest(image.chains[-1]).hex
    mountpoint.touch()
    containerd = Containerd(snapshotter.client, tmp_path)
    assert containerd.pull(image) == ["unpacked", "unpacked"]
    assert f"{image.registry.host}/app:latest: left to containerd: " in "\n".join(caplog.messages)
    with containerd.container(image.chains[-1]) as path:
        assert content(path) == CONTENT


def test_a_node_that_cannot_mount_at_all_asks_no_registry(
    snapshotter: Snapshotter, image: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mounting = snapshotter.snapshots.images.mounting
    (snapshotter.root / "probe").touch()
    mounting.probe()
    assert caplog.messages[-1].startswith(
        "containerd downloads and unpacks all images: this node cannot mount images: "
    )
    assert Containerd(snapshotter.client, tmp_path, "one").pull(image) == ["unpacked", "unpacked"]
    assert not image.registry.requests
    (snapshotter.root / "probe").unlink()
    mounting.probe()
    assert mounting.problem() is None
    with caplog.at_level("INFO"):
        mounting.probe()
    assert caplog.messages[-1] == "images are mounted by the erofs engine"
    assert sorted(os.listdir(snapshotter.root)) == ["images", "lock", *_DATABASE, "snapshots"]


_DATABASE = ("metadata.db", "metadata.db-shm", "metadata.db-wal")


def test_a_failed_probe_is_repeated(snapshotter: Snapshotter) -> None:
    mounting = Mounting(snapshotter.settings, probe_again=0.0)
    assert mounting.problem() is None  # none was made
    (snapshotter.root / "probe").touch()
    mounting.probe()
    assert "cannot mount images" in str(mounting.problem())
    (snapshotter.root / "probe").unlink()
    assert mounting.problem() is None


def test_an_engine_that_is_not_installed(tmp_path: Path, registry: Registry, root: None) -> None:
    """On a kernel that mounts EROFS only from block devices, without pyfuse3: here the operator chooses that engine."""
    (tmp_path / "modules/pyfuse3").mkdir(parents=True)
    (tmp_path / "modules/pyfuse3/__init__.py").write_text(
        "raise ModuleNotFoundError('No module named pyfuse3', name='pyfuse3')"
    )
    image = publish(registry, "app", IMAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "modules"))
        with running(tmp_path, Options(store=Store(tmp_path / "cache")), engine="fuse") as snapshotter:
            containerd = Containerd(snapshotter.client, tmp_path)
            assert containerd.pull(image) == ["unpacked", "unpacked"]
            snapshotter.snapshots.images.mounting.probe()
            problem = snapshotter.snapshots.images.mounting.problem()
            assert problem is not None
            assert problem.endswith("the fuse engine needs pyfuse3, which is not installed: pip install 'ocifs[fuse]'")
            with containerd.container(image.chains[-1]) as path:
                assert content(path) == CONTENT


def test_a_slow_mount_goes_on_in_the_background(image: Published, tmp_path: Path, service: None) -> None:
    """After a while the layers are answered all the same; the container waits for the mount."""
    may_mount = threading.Event()

    def step(name: str) -> None:
        if name == "mount":
            assert may_mount.wait(60)

    options = Options(store=Store(tmp_path / "cache"))
    with running(
        tmp_path, options, engine="erofs", step=step, settings={"service": True, "mount_seconds": 0.05}
    ) as snapshotter:
        pulls = Pulls(snapshotter.settings, snapshotter.snapshots.images)
        labels = {TARGET: image.chains[0], **cri_labels(image, 0)}
        source = pulls.source_of(labels, None)
        assert source is not None
        assert (source.manifest, source.depth, source.total) == (image.manifest, 1, 2)
        assert snapshotter.snapshots.images.mounted() == []
        may_mount.set()
        assert content(snapshotter.snapshots.images.ensure(image.chains[-1])) == CONTENT
