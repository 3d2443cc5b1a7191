"""containerd, `ctr-remote`, `ocifs snapshotter` as its operator runs it, and docker-registry with a login."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.docker_registry import (
    PASSWORD,
    USER,
    blob_answers,
    credentials,
    docker_registry,
    layer_answers,
    push,
    whole_layers,
)
from tests.containers.conftest import image_of_programs
from tests.depth import FULL, depth
from tests.images import Image, Layer, write_layout
from tests.snapshotter.node import Node, made_node
from tests.snapshotter.python_image import PRINT, python_image
from tests.snapshotter.releases import HERE, Release
from tests.tars import directory, file, tar
from tests.waiting import wait_for


@pytest.fixture
def node(
    request: pytest.FixtureRequest, of_debian: Callable[[str], Release], ocifs: Ocifs, tmp_path: Path, root: None
) -> Iterator[Node]:
    if shutil.which("ctr-remote") is None:
        pytest.skip("ctr-remote is missing")
    with made_node(ocifs, tmp_path, of_debian(request.param) if request.param else HERE) as made:
        yield made


_FAILURE_KEPT = 1.5
"""Seconds after a slow failure, in which further reads of the same bytes fail at once."""
_CASES = [(None, "erofs"), (None, "fuse"), ("trixie", "erofs"), ("forky", "erofs")]
"""The Debian whose containerd runs, or None for that of this machine; and the engine."""


@pytest.mark.parametrize(("node", "engine"), depth(_CASES[:1], _CASES), indirect=True)
def test_a_container_runs_from_an_image_in_a_registry(node: Node, engine: str, tmp_path: Path) -> None:
    programs = image_of_programs()
    answer = Layer(tar([directory(b"srv/"), file(b"srv/answer", b"42\n"), file(b"big", os.urandom(3 << 20))]))
    app = python_image(*programs.layers, answer, config=programs.config)
    layout = write_layout(tmp_path / "image", app)
    (tmp_path / "registry").mkdir()
    with (
        docker_registry(tmp_path / "registry", log=tmp_path / "access.log", login=True) as host,
        ExitStack() as stack,
    ):
        push(f"oci:{layout}:1", host, "app:1", f"--dest-creds={USER}:{PASSWORD}")
        image = f"{host}/app:1"
        (node.ocifs.home / "docker").mkdir()
        (node.ocifs.home / "docker/config.json").write_text(credentials(host))
        node.ocifs.output("index", "push", f"docker://{image}")
        shutil.rmtree(node.ocifs.cache)
        (tmp_path / "access.log").write_text("")
        with node.snapshotter(engine) as process:
            stack.enter_context(node.containerd())
            node.pull(image, f"--user={USER}:{PASSWORD}")
            assert node.run(image, "one", *PRINT) == "42\n"
            assert node.run(image, "two", "sh", "-c", "echo x >/srv/answer; cat /srv/answer") == "x\n"
            (mountpoint,) = node.mounts()
            assert "Committed" in node.ctr("ctr", "snapshots", "--snapshotter", "ocifs", "ls")
            process.send_signal(signal.SIGKILL)
            process.wait()
        stack.close()
        with node.snapshotter(engine):
            stack.enter_context(node.containerd())
            assert node.mounts() == [mountpoint]
            wait_for(node.is_connected)
            assert node.run(image, "three", "cat", "/srv/answer") == "42\n"
            node.ctr("ctr", "image", "rm", "--sync", image)
            wait_for(lambda: node.mounts() == [])
            assert os.listdir(node.directory / "snapshots/snapshots") == []
    answers = layer_answers(blob_answers(tmp_path / "access.log", "app"), app)
    assert {each.agent for each in answers} == {"ocifs"}
    assert whole_layers(answers, app) == []


@pytest.mark.skipif(not FULL, reason="waits for a registry that is gone, in half a minute: scripts/test --full")
@pytest.mark.parametrize(("node", "engine"), _CASES[:2], indirect=True)
def test_a_container_whose_registry_is_gone_fails_and_starts_once_it_is_back(
    node: Node, engine: str, tmp_path: Path
) -> None:
    programs = image_of_programs()
    ballast = Layer(tar([file(b"ballast", os.urandom(6 << 20))]))  # at this rate, the background gets no further
    layout = write_layout(tmp_path / "image", Image((ballast, *programs.layers), config=programs.config))
    (tmp_path / "registry").mkdir()
    with node.snapshotter(engine, "--prefetch-rate", "1KiB"), node.containerd():
        with docker_registry(tmp_path / "registry") as host:
            push(f"oci:{layout}:latest", host, "app:1")
            image = f"{host}/app:1"
            node.ocifs.output("index", "push", f"docker://{image}")
            shutil.rmtree(node.ocifs.cache)
            node.pull(image)
            wait_for(lambda: node.mounts() != [])
        with pytest.raises(AssertionError, match="input/output error"):
            node.run(image, "one", "sh", "-c", "echo 42")
        assert host in node.ocifs.log.read_text()
        time.sleep(_FAILURE_KEPT)
        with docker_registry(tmp_path / "registry", host=host):
            assert node.run(image, "two", "sh", "-c", "echo 42") == "42\n"


@pytest.mark.skipif(not FULL, reason="needs containerd 2 of a later Debian: scripts/test --full")
@pytest.mark.parametrize("node", ["forky"], indirect=True)
def test_a_container_in_a_user_namespace_sees_the_owners_of_the_image(node: Node, erofs: None, tmp_path: Path) -> None:
    programs = image_of_programs()
    owned = Layer(tar([directory(b"srv/"), file(b"srv/owned", b"42\n", uid=33, gid=4, mode=0o640)]))
    layout = write_layout(tmp_path / "image", Image((*programs.layers, owned), config=programs.config))
    (tmp_path / "registry").mkdir()
    script = "stat -c %u:%g /srv/owned && cat /srv/owned && echo 43 >/srv/owned && cat /srv/owned && id -u"
    with tempfile.TemporaryDirectory(prefix="ocifs-test-") as state, docker_registry(tmp_path / "registry") as host:
        os.chmod(state, 0o711)  # the root of the container has to reach its file system
        push(f"oci:{layout}:latest", host, "app:1")
        image = f"{host}/app:1"
        node.ocifs.output("index", "push", f"docker://{image}")
        with node.snapshotter(), node.containerd(Path(state) / "containerd"):
            node.pull(image)
            mapping = ("--uidmap=0:100000:65536", "--gidmap=0:200000:65536", "--remap-labels")
            ran = node.ctr("ctr", "run", "--rm", "--snapshotter", "ocifs", *mapping, image, "one", "sh", "-c", script)
            assert ran == "33:4\n42\n43\n0\n"
            assert len(node.mounts()) == 1
