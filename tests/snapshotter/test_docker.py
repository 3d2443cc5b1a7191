"""Docker with containerd's image store on the snapshotter, as docs/docker.md says. `scripts/test --full` only."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.docker_registry import PASSWORD, USER, blob_answers, docker_registry, layer_answers, push
from tests.containers.conftest import image_of_programs
from tests.depth import FULL
from tests.images import Image, Layer, write_layout
from tests.snapshotter.node import Node, made_node
from tests.snapshotter.releases import Release
from tests.tars import directory, file, tar
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not FULL, reason="unpacks Docker of later Debians: scripts/test --full")

_WITHOUT_NETWORKS = ("--iptables=false", "--ip6tables=false", "--bridge=none")


@dataclass(frozen=True)
class Docker:
    """dockerd on a node, and its client."""

    node: Node

    def run(self, *arguments: str, stdin: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
        command = [self.node.release.program("docker"), "--host", f"unix://{self.node.directory}/d.sock", *arguments]
        environment = {
            **self.node.release.variables(), "HOME": str(self.node.ocifs.home),
            "DOCKER_CONFIG": str(self.node.ocifs.home / "docker"), "DOCKER_BUILDKIT": "0", **variables,
        }  # fmt: skip
        return subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=300
        )

    def output(self, *arguments: str, stdin: str = "") -> str:
        """Return its output; it must succeed."""
        ran = self.run(*arguments, stdin=stdin)
        assert ran.returncode == 0, ran
        return ran.stdout

    def container(self, image: str, *command: str) -> str:
        return self.output("run", "--rm", "--network=none", image, *command)


@contextmanager
def dockerd(node: Node, registry: str) -> Iterator[Docker]:
    place = node.directory
    settings = {
        "features": {"containerd-snapshotter": True},
        "storage-driver": "ocifs",
        "insecure-registries": [registry],
    }
    (place / "daemon.json").write_text(json.dumps(settings))
    command = [
        node.release.program("dockerd"), "--config-file", f"{place}/daemon.json", "--containerd", f"{place}/c.sock",
        "--host", f"unix://{place}/d.sock", "--data-root", f"{place}/docker", "--exec-root", f"{place}/exec",
        "--pidfile", f"{place}/docker.pid", "--exec-opt", "native.cgroupdriver=cgroupfs", *_WITHOUT_NETWORKS,
    ]  # fmt: skip
    docker = Docker(node)
    with (
        (place / "docker.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=node.release.variables()) as process,
    ):
        try:
            wait_for(lambda: docker.run("info").returncode == 0, 60)
            yield docker
        finally:
            process.terminate()


@pytest.fixture(params=["trixie", "forky"])
def node(
    request: pytest.FixtureRequest,
    of_debian: Callable[[str], Release],
    ocifs: Ocifs,
    tmp_path: Path,
    root: None,
    erofs: None,
) -> Iterator[Node]:
    with made_node(ocifs, tmp_path, of_debian(request.param)) as made:
        yield made


def test_docker_runs_builds_and_pushes(node: Node, tmp_path: Path) -> None:
    programs = image_of_programs()
    top = Layer(tar([directory(b"srv/"), file(b"srv/answer", b"42\n")]))
    app = Image((*programs.layers, top), config=programs.config)
    layout = write_layout(tmp_path / "image", app)
    base = write_layout(tmp_path / "base", programs)
    log = tmp_path / "access.log"
    context = tmp_path / "context"
    for made in (context, tmp_path / "registry"):
        made.mkdir()
    with (
        docker_registry(tmp_path / "registry", log, login=True) as host,
        node.snapshotter(),
        node.containerd(),
        dockerd(node, host) as docker,
    ):
        image, built = f"{host}/app:1", f"{host}/built:1"
        push(f"oci:{layout}:latest", host, "app:1", f"--dest-creds={USER}:{PASSWORD}")
        docker.output("login", f"--username={USER}", "--password-stdin", host, stdin=PASSWORD)
        node.ocifs.output("index", "push", f"docker://{image}")  # with the credentials of docker login
        shutil.rmtree(node.ocifs.cache)
        log.write_text("")

        docker.output("pull", image)
        assert docker.container(image, "cat", "/srv/answer") == "42\n"
        assert len(node.mounts()) == 1
        answers = layer_answers(blob_answers(log, "app"), app)
        assert {(each.status, each.agent) for each in answers} == {(206, "ocifs")}

        (context / "Dockerfile").write_text(f"FROM {image}\nRUN cat /srv/answer >/srv/copy\nCOPY Dockerfile /\n")
        docker.output("build", "--network=none", f"--tag={built}", str(context))
        assert docker.container(built, "cat", "/srv/copy") == "42\n"
        docker.output("run", "--network=none", "--name=one", image, "sh", "-c", "echo 43 >/srv/answer")
        assert docker.output("diff", "one").splitlines() == ["C /srv", "C /srv/answer"]
        docker.output("commit", "one", "committed:1")
        assert docker.container("committed:1", "cat", "/srv/answer") == "43\n"
        docker.output("rm", "one")

        archive = tmp_path / "base.tar"
        subprocess.run(["skopeo", "copy", "-q", f"oci:{base}:latest", f"docker-archive:{archive}:base:1"], check=True)
        docker.output("load", "--input", str(archive))
        assert docker.container("base:1", "sh", "-c", "echo loaded") == "loaded\n"

        # containerd has no layers of the image, until it is told to fetch them.
        refused = docker.run("push", built)
        assert refused.returncode != 0
        assert "not found" in refused.stderr + refused.stdout
        saved = tmp_path / "saved.tar"
        docker.output("save", "--output", str(saved), image)
        assert saved.stat().st_size < len(programs.layers[0].blob)
        node.ctr("ctr", "--namespace=moby", "content", "fetch", "--plain-http", f"--user={USER}:{PASSWORD}", image)
        docker.output("push", built)
        docker.output("save", "--output", str(saved), image)
        assert saved.stat().st_size > len(programs.layers[0].blob)

        docker.output("rmi", image, built, "committed:1", "base:1")
        wait_for(lambda: node.mounts() == [], 120)
