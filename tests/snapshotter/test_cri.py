"""Pods as the kubelet runs them: containerd's CRI plugin pulls through ocifs, and downloads no layer itself."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from ocifs.mount.mountinfo import is_below, mount_table
from ocifs.snapshotter.check.containerd_config import parse_version
from ocifs.snapshotter.keychain_socket import SOCKET
from ocifs.sources.registry.keychain import ask
from ocifs.sources.registry.peer import Credentials, KeychainEntry
from tests.cli.command import Ocifs
from tests.cli.docker_registry import (
    PASSWORD,
    USER,
    Answer,
    blob_answers,
    credentials,
    docker_registry,
    layer_answers,
    push,
    whole_layers,
)
from tests.depth import FULL, depth
from tests.images import Image, Layer, layout_files, write_layout
from tests.registry import Registry, basic, running
from tests.snapshotter import releases
from tests.snapshotter.cri import MAPPED, Cri, containerd
from tests.snapshotter.python_image import PRINT, python_image
from tests.snapshotter.releases import HERE, Release
from tests.tars import file, tar
from tests.waiting import wait_for


@pytest.fixture(scope="session")
def pause() -> Image:
    """An image that does nothing until it is ended."""
    program = shutil.which("catatonit")
    if program is None:
        pytest.skip("catatonit is missing")
    layer = Layer(tar([file(b"./catatonit", Path(program).read_bytes(), mode=0o755)]))
    return Image((layer,), tag="pause", config={"config": {"Entrypoint": ["/catatonit", "-P"]}})


@dataclass
class Node:
    """A node with containerd, the snapshotter, and a registry that has images."""

    registry: Registry
    cri: Cri
    log: Path
    hosts: Path
    """The directory of hosts.toml files."""
    major: int
    """The version of containerd."""
    app: Image
    """It has an index, and needs a login."""
    plain: Image
    """It has none."""

    def answers(self, repository: str) -> list[Answer]:
        """Return the answers to requests for blobs of a repository."""
        prefix = f"/v2/{repository}/blobs/"
        return [
            Answer(
                each.path.partition("?")[0].removeprefix(prefix), each.status, each.size, each.agent.partition("/")[0]
            )
            for each in self.registry.transfers
            if each.path.startswith(prefix)
        ]


_NODES = [
    (None, "version 2"),
    ("trixie", "version 2"),
    ("forky", "version 2 with runtimes"),
    ("forky", "version 3"),
    ("forky", "version 3 with transfer"),
]
"""Debians whose containerd runs, and the configuration of it."""
_DOCUMENTED = {(1, 6), (1, 7), (2, 1)}
"""The versions of containerd that docs/kubernetes.md calls tested: those of Debian 12, 13 and 14 (forky)."""


def configure(hosts: Path, host: str) -> None:
    """Write a hosts.toml for a registry without TLS."""
    (hosts / host).mkdir(parents=True)
    # containerd 1.7.24 refuses a file without a section.
    (hosts / host / "hosts.toml").write_text(f'server = "http://{host}"\n[host."http://{host}"]\n')


@pytest.fixture(
    scope="module", params=depth(_NODES[:1], _NODES), ids=lambda node: f"{node[0] or 'this machine'}, {node[1]}"
)
def node(
    request: pytest.FixtureRequest,
    of_debian: Callable[[str], Release],
    session_ocifs: Ocifs,
    tmp_path_factory: pytest.TempPathFactory,
    pause: Image,
    erofs: None,
    root: None,
) -> Iterator[Node]:
    suite, configuration = request.param
    release = of_debian(suite) if suite else HERE
    with made_node(session_ocifs, tmp_path_factory.mktemp("cri"), pause, release, configuration) as made:
        yield made


@contextmanager
def made_node(ocifs: Ocifs, place: Path, pause: Image, release: Release, configuration: str) -> Iterator[Node]:
    """Yield a node, and `app` with an index, for which a login is needed, and `plain` without an index."""
    app, plain = python_image(), python_image()
    with running() as registry:
        registry.states_digests = True
        registry.add("plain", layout_files(plain))
        places = [registry.add("app", layout_files(app)), registry.add("pause", layout_files(pause))]
        assert ocifs.run("index", "push", f"{places[0]}:1", f"{places[1]}:pause").code == 0
        registry.transfers.clear()
        registry.fault(basic("me", "secret"), "/v2/app/")
        hosts = place / "certs.d"
        configure(hosts, registry.host)
        socket, image_service, state = place / "run/s.sock", place / "run/cri.sock", place / "containerd"
        command = ocifs.command(
            "snapshotter", "--root", place / "root", "--address", socket, "--cache-dir", place / "cache",
            "--hosts-dir", hosts, "--no-service", "--prefetch-rate", "1KiB", "--index-up-to", "1MiB",
            "--image-service", image_service, "--containerd", state / "containerd.sock",
        )  # fmt: skip
        log = place / "snapshotter.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=ocifs.variables(), stdout=output, stderr=output, cwd=ocifs.home)
        try:
            wait_for(lambda: socket.exists() and image_service.exists(), 120)
            pause_name = f"{registry.host}/pause:pause"
            with containerd(state, socket, hosts, pause_name, image_service, release, configuration) as cri:
                version = parse_version(release.version())
                assert version in _DOCUMENTED, "docs/kubernetes.md says which versions are tested"
                yield Node(registry, cri, log, hosts, version[0], app, plain)
        finally:
            process.terminate()
            process.wait(30)
            for entry in reversed(mount_table()):
                if is_below(entry.mountpoint, str(place)):
                    subprocess.run(["umount", "-l", entry.mountpoint], check=False)
            sys.stderr.write(log.read_text()[-3000:])


def test_a_pod_runs_lazily_with_the_credentials_of_the_pull(node: Node) -> None:
    """Python prints before its image is downloaded. containerd requests no layer, and the log has no secret."""
    image = f"{node.registry.host}/app:1"
    with pytest.raises(grpc.RpcError, match=r"401|authorization failed|pull access denied"):
        node.cri.pull(image)
    node.cri.pull(image, "me", "secret")
    assert node.cri.run(image, *PRINT) == (0, "42")
    answers = layer_answers(node.answers("app"), node.app)
    assert {each.agent for each in answers} == {"ocifs"}
    assert whole_layers(answers, node.app) == []
    kept = ask(KeychainEntry(str(node.log.parent / "root" / SOCKET), f"{node.registry.host}/app"))
    assert kept == Credentials("me", "secret")  # for the worker, if the registry refuses others
    assert "secret" not in node.log.read_text()


@pytest.mark.skipif(FULL, reason="runs anyway with --full, as one of several configurations")
def test_a_pod_runs_lazily_with_the_transfer_service(
    ocifs: Ocifs, tmp_path: Path, pause: Image, erofs: None, root: None
) -> None:
    """containerd 2.1, as docs/kubernetes.md configures it."""
    release = releases.of_debian("forky", tmp_path, "containerd", bounded=True)
    with made_node(ocifs, tmp_path, pause, release, "version 3 with transfer") as node:
        test_a_pod_runs_lazily_with_the_credentials_of_the_pull(node)


def test_an_image_without_an_index_is_unpacked_by_containerd(node: Node) -> None:
    image = f"{node.registry.host}/plain:1"
    node.cri.pull(image)
    assert node.cri.run(image, *PRINT) == (0, "42")
    whole = whole_layers(node.answers("plain"), node.plain)
    assert ["containerd"] * len(node.plain.layers) == [each.agent for each in whole]


def test_a_registry_with_users_serves_the_credentials_of_the_pull(
    node: Node, session_ocifs: Ocifs, tmp_path: Path
) -> None:
    """docker-registry requires a login for all requests: ocifs has read manifests, index and layers with that one.

    Python runs, and no answer has a whole layer.
    """
    app = python_image()
    layout = write_layout(tmp_path / "image", app)
    docker = tmp_path / "docker"
    for made in (docker, tmp_path / "registry"):
        made.mkdir()
    with docker_registry(tmp_path / "registry", tmp_path / "access.log", login=True) as host:
        push(f"oci:{layout}:1", host, "users/app:1", f"--dest-creds={USER}:{PASSWORD}")
        (docker / "config.json").write_text(credentials(host))
        assert session_ocifs.run("index", "push", f"docker://{host}/users/app:1", DOCKER_CONFIG=str(docker)).code == 0
        configure(node.hosts, host)
        (tmp_path / "access.log").write_text("")
        image = f"{host}/users/app:1"
        with pytest.raises(grpc.RpcError, match=r"401|authorization failed|pull access denied"):
            node.cri.pull(image, USER, "wrong")
        node.cri.pull(image, USER, PASSWORD)
        assert node.cri.run(image, *PRINT) == (0, "42")
    answers = layer_answers(blob_answers(tmp_path / "access.log", "users/app"), app)
    assert {(each.status, each.agent) for each in answers} == {(206, "ocifs")}
    assert whole_layers(answers, app) == []
    assert PASSWORD not in node.log.read_text()


def test_the_first_process_of_a_pod_in_a_user_namespace(node: Node) -> None:
    """Containers of the Pod would need runc 1.2, too."""
    if node.major < 2:
        pytest.skip("containerd 1 does not map the owners of an image")
    with node.cri.pod("mapped", mapped=True):
        assert MAPPED in {path.stat().st_uid for path in Path("/proc").glob("[0-9]*") if _name(path) == "catatonit"}


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().rstrip()
    except OSError:
        return ""
