"""A machine with containerd, and `ocifs snapshotter` as its operator runs it."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.cli.command import Ocifs
from tests.docs.toml_blocks import Table, merged, to_toml, with_docker
from tests.snapshotter.releases import HERE, Release
from tests.waiting import wait_for


@dataclass(frozen=True)
class Node:
    """A machine with containerd and the snapshotter."""

    ocifs: Ocifs
    directory: Path
    release: Release = HERE

    def ctr(self, program: str, *arguments: str) -> str:
        command = [self.release.program(program), "--address", str(self.directory / "c.sock"), *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ran.returncode == 0, ran
        return ran.stdout

    def pull(self, image: str, *options: str) -> None:
        self.ctr("ctr-remote", "image", "rpull", "--plain-http", "--snapshotter", "ocifs", *options, image)

    def run(self, image: str, name: str, *command: str) -> str:
        return self.ctr("ctr", "run", "--rm", "--snapshotter", "ocifs", image, name, *command)

    def is_connected(self) -> bool:
        """Whether containerd reaches the snapshotter."""
        ctr = [self.release.program("ctr"), "--address", str(self.directory / "c.sock")]
        command = [*ctr, "snapshots", "--snapshotter", "ocifs", "usage"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    @contextmanager
    def containerd(self, state: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
        """Run containerd, with mounts for containers below `state`."""
        config = self.directory / "config.toml"
        own: Table = {
            "root": f"{self.directory}/root",
            "state": str(state or self.directory / "state"),
            "version": 2,
            "disabled_plugins": ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"],
            "grpc": {"address": f"{self.directory}/c.sock"},
            "ttrpc": {"address": f"{self.directory}/c.ttrpc"},
            "proxy_plugins": {
                "ocifs": {
                    "address": f"{self.directory}/s.sock",
                    "capabilities": ["remap-ids"],
                    "exports": {"root": f"{self.directory}/snapshots"},
                }
            },
        }
        config.write_text(to_toml(merged(with_docker(), own)))
        with (
            (self.directory / "log").open("ab") as log,
            subprocess.Popen(
                [self.release.program("containerd"), "--config", config],
                stdout=log,
                stderr=log,
                env=self.release.variables(),
            ) as process,
        ):
            try:
                wait_for(lambda: (self.directory / "c.sock").exists() or process.poll() is not None)
                assert process.poll() is None, (self.directory / "log").read_text()[-2000:]
                yield process
            finally:
                process.terminate()

    @contextmanager
    def snapshotter(self, engine: str = "erofs", *options: str) -> Iterator["subprocess.Popen[bytes]"]:
        address = str(self.directory / "s.sock")
        root = str(self.directory / "snapshots")
        process = self.ocifs.start("snapshotter", "--root", root, "--address", address, "--engine", engine, *options)
        with process:
            try:
                wait_for(lambda: os.path.exists(address) or process.poll() is not None)
                assert process.poll() is None, process.communicate()
                yield process
            finally:
                process.terminate()

    def mounts(self) -> list[str]:
        return [each["mountpoint"] for each in json.loads(self.ocifs.output("mounts", "--json")) if each["pid"]]


@contextmanager
def made_node(ocifs: Ocifs, place: Path, release: Release = HERE) -> Iterator[Node]:
    """Yield a node with its files below `place`; end its mounts and its service of ocifs at the end."""
    for program in ("containerd", "ctr", "runc"):
        release.program(program)
    directory = place / "node"
    directory.mkdir(mode=0o700)
    made = Node(replace(ocifs, environment={**ocifs.environment, "OCIFS_NO_SERVICE": ""}), directory, release)
    yield made
    for mountpoint in made.mounts():
        ocifs.run("umount", "--lazy", mountpoint)
    if "process" in made.ocifs.run("service", "status").text:
        made.ocifs.output("service", "stop")
