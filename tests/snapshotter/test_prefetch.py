"""What an image reads at its start, recorded on one node and published, is fetched first on another node."""

import os
from pathlib import Path

import pytest

from ocifs.cli.verbs import run
from ocifs.options import Options
from ocifs.store import Store
from tests.images import Image, Layer
from tests.registry import Registry, status
from tests.snapshotter.client import running
from tests.snapshotter.pulling import Containerd, publish
from tests.tars import file, tar
from tests.waiting import wait_for

HOT, COLD = os.urandom(400_000), os.urandom(3_000_000)
IMAGE = Image((Layer(tar([file(b"cold", COLD)])), Layer(tar([file(b"hot", HOT)]))))
_PATIENCE = 120.0
"""Seconds for background work, which pauses after the first reads."""


def test_the_first_reads_of_one_node_reach_another_without_the_layers(
    registry: Registry, tmp_path: Path, service: None
) -> None:
    """Node B reads them although the registry has lost the layers; what A has not read fails there."""
    image = publish(registry, "app", IMAGE)
    top = image.chains[-1]
    for node in ("a", "b"):
        (tmp_path / node).mkdir(mode=0o700)
    caches = {node: tmp_path / node / "cache" for node in ("a", "b")}

    store = Store(caches["a"])
    with running(tmp_path / "a", Options(store=store), engine="erofs", settings={"service": True}) as snapshotter:
        containerd = Containerd(snapshotter.client, tmp_path / "a")
        assert containerd.pull(image) == ["lazy", "lazy"]
        with containerd.container(top) as path:
            assert (path / "hot").read_bytes() == HOT
            wait_for(lambda: "pack1" in [entry.kind for entry in store.entries()], _PATIENCE)
    name = f"docker://{registry.host}/app:latest"
    assert run(["index", "push", "--cache-dir", str(caches["a"]), name], None) == 0

    registry.requests.clear()
    registry.fault(status(404), "|".join(f"/blobs/{layer}" for layer in image.layers))
    options = Options(store=Store(caches["b"]))
    with running(tmp_path / "b", options, engine="erofs", settings={"service": True}) as snapshotter:
        containerd = Containerd(snapshotter.client, tmp_path / "b")
        assert containerd.pull(image) == ["lazy", "lazy"]
        with containerd.container(top) as path:
            assert (path / "hot").read_bytes() == HOT
            with pytest.raises(OSError, match="Input/output error"):
                (path / "cold").read_bytes()
