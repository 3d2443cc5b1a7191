"""containerd and `ctr-remote` of this machine, `ocifs snapshotter` as its operator runs it, and docker-registry."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.docker_registry import docker_registry, push
from tests.containers.conftest import image_of_programs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, tar
from tests.waiting import wait_for

_CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{directory}/c.sock"
[proxy_plugins.ocifs]
  type = "snapshot"
  address = "{directory}/s.sock"
"""


@dataclass(frozen=True)
class Node:
    """A machine with containerd and the snapshotter."""

    ocifs: Ocifs
    directory: Path

    def ctr(self, program: str, *arguments: str) -> str:
        command = [program, "--address", str(self.directory / "c.sock"), *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ran.returncode == 0, ran
        return ran.stdout

    def pull(self, image: str) -> None:
        self.ctr("ctr-remote", "image", "rpull", "--plain-http", "--snapshotter", "ocifs", image)

    def run(self, image: str, name: str, *command: str) -> str:
        return self.ctr("ctr", "run", "--rm", "--snapshotter", "ocifs", image, name, *command)

    def is_connected(self) -> bool:
        """Whether containerd reaches the snapshotter."""
        command = ["ctr", "--address", str(self.directory / "c.sock"), "snapshots", "--snapshotter", "ocifs", "usage"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    @contextmanager
    def containerd(self) -> Iterator[None]:
        config = self.directory / "config.toml"
        config.write_text(_CONFIG.format(directory=self.directory))
        with (
            (self.directory / "log").open("wb") as log,
            subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log) as process,
        ):
            try:
                wait_for((self.directory / "c.sock").exists)
                yield
            finally:
                process.terminate()

    @contextmanager
    def snapshotter(self, engine: str) -> Iterator["subprocess.Popen[bytes]"]:
        address = str(self.directory / "s.sock")
        root = str(self.directory / "snapshots")
        process = self.ocifs.start("snapshotter", "--root", root, "--address", address, "--engine", engine)
        with process:
            try:
                wait_for(lambda: os.path.exists(address) or process.poll() is not None)
                assert process.poll() is None, process.communicate()
                yield process
            finally:
                process.terminate()

    def mounts(self) -> list[str]:
        return [each["mountpoint"] for each in json.loads(self.ocifs.output("mounts", "--json")) if each["pid"]]


@pytest.fixture
def node(ocifs: Ocifs, tmp_path: Path, root: None) -> Iterator[Node]:
    for program in ("containerd", "ctr", "ctr-remote", "runc"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing")
    directory = tmp_path / "node"
    directory.mkdir(mode=0o700)
    made = Node(replace(ocifs, environment={**ocifs.environment, "OCIFS_NO_SERVICE": ""}), directory)
    yield made
    for mountpoint in made.mounts():
        ocifs.run("umount", "--lazy", mountpoint)
    if "process" in made.ocifs.run("service", "status").text:
        made.ocifs.output("service", "stop")


@pytest.mark.parametrize("engine", depth(["erofs"], ["erofs", "fuse"]), indirect=True)
def test_a_container_runs_from_an_image_in_a_registry(node: Node, engine: str, tmp_path: Path) -> None:
    layers = (
        *image_of_programs().layers,
        Layer(tar([directory(b"srv/"), file(b"srv/answer", b"42\n"), file(b"big", os.urandom(1 << 20))])),
    )
    layout = write_layout(tmp_path / "image", Image(layers, config=image_of_programs().config))
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry", log=tmp_path / "access.log") as host, ExitStack() as stack:
        push(f"oci:{layout}:latest", host, "app:1")
        image = f"{host}/app:1"
        node.ocifs.output("index", "push", f"docker://{image}")
        shutil.rmtree(node.ocifs.cache)
        (tmp_path / "access.log").write_text("")
        with node.snapshotter(engine) as process:
            stack.enter_context(node.containerd())
            node.pull(image)
            assert node.run(image, "one", "cat", "/srv/answer") == "42\n"
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
    blobs = re.findall(
        r'"GET /v2/app/blobs/(\S+) \S+" (\d+) (\d+)', (tmp_path / "access.log").read_text(errors="replace")
    )
    assert blobs
    whole = {name for name, code, _ in blobs if code == "200"}
    assert not whole & {
        f"sha256:{path.name}" for path in (layout / "blobs/sha256").iterdir() if path.stat().st_size > 10000
    }
