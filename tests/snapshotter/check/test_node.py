"""Findings about a node: files below another root, literal processes, and this machine's sockets."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from ocifs.cli.verbs import run
from ocifs.snapshotter.check.containerd import Expected
from ocifs.snapshotter.check.node import NodeCheck, RunningProcess, fuse_engine_problem, running_processes
from ocifs.snapshotter.keychain import Keychain
from ocifs.snapshotter.keychain_socket import SOCKET, answering
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.peer import Credentials
from tests.images import Image, layout_files
from tests.registry import Registry, basic, status

EXPECTED = Expected("ocifs", Path("/run/ocifs/s.sock"), Path("/var/lib/ocifs"), Path("/no/certs.d"), False)
RELEASE = "6.12.1-test"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A directory with the files of a correctly configured node."""
    for path, text in {
        "proc/sys/kernel/osrelease": f"{RELEASE}\n",
        "proc/filesystems": "nodev\toverlay\nnodev\tfuse\n\terofs\n",
        "dev/fuse": "",
        "etc/containerd/config.toml": "version = 2\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def kernel(node: Path, fuse_engine: str | None = None) -> list[str]:
    return [f"{each.level} {each.message}" for each in NodeCheck(node, fuse_engine=lambda: fuse_engine).kernel()]


def test_a_kernel_that_supports_everything(node: Path) -> None:
    assert kernel(node) == [f"ok Linux {RELEASE} can mount EROFS from a file"]


def test_a_kernel_with_modules(node: Path) -> None:
    (node / "proc/filesystems").write_text("nodev\tproc\n")
    for name in ("overlay/overlay", "fuse/fuse", "erofs/erofs"):
        module = node / f"lib/modules/{RELEASE}/kernel/fs/{name}.ko.xz"
        module.parent.mkdir(parents=True)
        module.write_bytes(b"")
    assert kernel(node) == [f"ok Linux {RELEASE} can mount EROFS from a file"]


def test_kernels_that_lack_something(node: Path) -> None:
    old = f"warning Linux {RELEASE} cannot mount EROFS from a file, so the fuse engine serves images, which is slower"
    (node / f"boot/config-{RELEASE}").parent.mkdir()
    (node / f"boot/config-{RELEASE}").write_text("# CONFIG_EROFS_FS_BACKED_BY_FILE is not set\n")
    assert kernel(node) == [old]
    (node / "proc/sys/kernel/osrelease").write_text("6.1.0-\x1b[2J")
    assert kernel(node)[0].startswith("warning Linux 6.1.0-\\x1b[2J cannot mount EROFS")
    (node / "proc/filesystems").write_text("")
    (node / "dev/fuse").unlink()
    (node / "proc/sys/kernel/osrelease").write_text("../../x")
    assert [each.partition(", so")[0] for each in kernel(node)] == [
        "error Linux ../../x has no overlay",
        "error Linux ../../x has no fuse",
        "error /dev/fuse is missing",
    ]


def test_a_kernel_without_erofs_and_an_installation_without_the_fuse_engine(node: Path) -> None:
    """No engine can mount, and the finding says both ways out."""
    missing = "the fuse engine needs pyfuse3, which is not installed: pip install 'ocifs[fuse]'"
    assert kernel(node, missing) == [f"ok Linux {RELEASE} can mount EROFS from a file"]
    for release, lacks in (("6.1.0", "cannot mount EROFS from a file"), (RELEASE, "has no erofs")):
        (node / "proc/sys/kernel/osrelease").write_text(release)
        (found,) = NodeCheck(node, fuse_engine=lambda: missing).kernel()
        assert (found.level, found.message) == (
            "error",
            f"Linux {release} {lacks}, and the fuse engine needs pyfuse3, which is not installed, so containerd "
            "unpacks all images",
        )
        assert found.advice.endswith(", or install the extra fuse of ocifs (pip install 'ocifs[fuse]')")
        (node / "proc/filesystems").write_text("nodev\toverlay\nnodev\tfuse\n")


def test_the_fuse_engine_of_this_installation(fuse: None) -> None:
    assert fuse_engine_problem() is None


def messages(node: NodeCheck) -> list[str]:
    return [f"{each.level} {each.message}" for each in node.containerd(EXPECTED)]


def test_the_configuration_of_the_running_containerd(node: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('version = 2\n[proxy_plugins.ocifs]\ntype = "snapshot"\naddress = "/run/ocifs/s.sock"')
    for arguments in (("--config", str(other)), (f"--config={other}",), ("-l", "debug", "-c", str(other))):
        found = messages(NodeCheck(node, [RunningProcess("containerd", arguments)]))
        assert found[0] == "ok [proxy_plugins.ocifs] connects to /run/ocifs/s.sock"
    assert messages(NodeCheck(node))[0] == "warning it is not running"
    assert "has no section [proxy_plugins.ocifs]" in messages(NodeCheck(node))[1]


def test_k3s(node: Path) -> None:
    (node / "etc/containerd/config.toml").unlink()
    config = node / "var/lib/rancher/k3s/agent/etc/containerd/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("version = 3\n")
    found = messages(
        NodeCheck(node, [RunningProcess("k3s", ("server",)), RunningProcess("containerd", ("-c", str(config)))])
    )
    assert found[0].startswith(f"ok k3s writes {config}: change config.toml.tmpl")
    assert NodeCheck(node, [RunningProcess("k3s", ("server",))]).has_kubelet
    assert not NodeCheck(node).has_kubelet


def test_no_containerd(node: Path) -> None:
    (node / "etc/containerd/config.toml").unlink()
    assert messages(NodeCheck(node)) == ["error it is not installed"]


def test_a_malformed_configuration(node: Path) -> None:
    (node / "etc/containerd/config.toml").write_text("version")
    found = messages(NodeCheck(node, [RunningProcess("containerd", ())]))
    assert found == [f"error cannot use {node}/etc/containerd/config.toml: " + found[0].partition(".toml: ")[2]]


def test_a_malformed_daemon_json(node: Path) -> None:
    (node / "etc/docker").mkdir()
    (node / "etc/docker/daemon.json").write_text("{")
    assert [each.message for each in NodeCheck(node).docker(EXPECTED)] == ["/etc/docker/daemon.json is malformed"]


def test_the_endpoint_of_kubelet(node: Path, tmp_path: Path) -> None:
    path = tmp_path / "cri.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        for arguments, expected in (
            ((), "warning"),
            ((f"--image-service-endpoint=unix://{path}",), "ok"),
            (("--image-service-endpoint", "unix:///none\x1b"), "error"),
        ):
            (found,) = NodeCheck(node, [RunningProcess("kubelet", arguments)]).kubelet(EXPECTED)
            assert found.level == expected
            assert "\x1b" not in str(found)
        for text in (f"kind: X\nimageServiceEndpoint: unix://{path}\n", f'{{"imageServiceEndpoint": "unix://{path}"}}'):
            (node / "kubelet.yaml").write_text(text)
            (found,) = NodeCheck(node, [RunningProcess("kubelet", ("--config", "/kubelet.yaml"))]).kubelet(EXPECTED)
            assert found.level == "ok"


def test_processes_of_this_machine() -> None:
    assert any(os.path.basename(str(each.name)) for each in running_processes())


def check(capfdbinary: pytest.CaptureFixture[bytes], *arguments: str) -> tuple[int, list[dict[str, str]]]:
    code = run(["snapshotter", "check", "--json", *arguments], None)
    out, err = capfdbinary.readouterr()
    assert err == b""
    return code, [json.loads(line) for line in out.splitlines()]


def test_the_command(capfdbinary: pytest.CaptureFixture[bytes], registry: Registry, tmp_path: Path, root: None) -> None:
    """Errors give exit status 1; images are looked up in their registry."""
    registry.add("app", layout_files(Image(tag="1")))
    registry.fault(status(404), "/missing/")
    hosts = tmp_path / "certs.d"
    for name, text in (("good.example_5000_", 'server = "x"'), ("bad.example", "server = 1"), ("_default", "typo = 1")):
        (hosts / name).mkdir(parents=True)
        (hosts / name / "hosts.toml").write_text(text)
    (tmp_path / "config.toml").write_text("version = 2")
    images = (f"{registry.host}/app:1", f"docker://{registry.host}/missing:1")
    paths = {"--hosts-dir": hosts, "--address": tmp_path / "s.sock", "--containerd-config": tmp_path / "config.toml"}
    options = [f"{name}={path}" for name, path in {**paths, "--cache-dir": tmp_path / "cache"}.items()]
    code, found = check(capfdbinary, *options, *images)
    assert code == 1
    by_subject: dict[str, list[str]] = {}
    for each in found:
        by_subject.setdefault(each["subject"], []).append(f"{each['level']} {each['message']}")
    assert [each.partition(" ")[0] for each in by_subject["hosts.toml"]] == ["warning", "error", "ok"]
    assert by_subject["snapshotter"] == [f"error it does not run: there is no {tmp_path}/s.sock"]
    small, missing = by_subject["registry"]
    assert small.startswith("ok ")
    assert "1 of 1 layers" in small
    assert "ocifs indexes them during the pull, and serves the image lazily" in small
    assert missing.startswith("error ")
    assert "/missing:1: " in missing


@pytest.mark.parametrize(
    ("arguments", "level", "message"),
    [
        (["--index-up-to", "10"], "warning", "have no index, more than --index-up-to=10: containerd unpacks the image"),
        (["--index-up-to", "0"], "warning", "more than --index-up-to=0"),
        (["--index-up-to", "1MiB"], "ok", "ocifs indexes them during the pull"),
    ],
)
def test_small_images_need_no_index(
    capfdbinary: pytest.CaptureFixture[bytes],
    registry: Registry,
    tmp_path: Path,
    root: None,
    arguments: list[str],
    level: str,
    message: str,
) -> None:
    registry.add("app", layout_files(Image(tag="1")))
    _, found = check(capfdbinary, "--cache-dir", str(tmp_path), *arguments, f"{registry.host}/app:1")
    (finding,) = [each for each in found if each["subject"] == "registry"]
    assert finding["level"] == level
    assert message in finding["message"]


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (RunningProcess("ocifs", ("snapshotter", "--index-up-to", "5MiB")), "5MiB"),
        (RunningProcess("python3", ("/opt/ocifs/bin/ocifs", "snapshotter", "serve", "--index-up-to=0")), "0"),
        (RunningProcess("ocifs", ("snapshotter",)), None),
        (RunningProcess("vi", ("ocifs", "--index-up-to=5")), None),
        (RunningProcess("grep", ("x", "snapshotter", "--index-up-to=5")), None),
    ],
)
def test_the_limit_is_that_of_the_running_snapshotter(process: RunningProcess, expected: str | None) -> None:
    assert NodeCheck(processes=[RunningProcess("init", ()), process]).index_up_to() == expected


def test_the_credentials_of_the_last_pull_count(
    capfdbinary: pytest.CaptureFixture[bytes], registry: Registry, tmp_path: Path, root: None
) -> None:
    """A running snapshotter has them; without one, the finding says where they would come from."""
    registry.add("app", layout_files(Image(tag="1")))
    registry.fault(basic("me", "s3cr3t"), "/v2/app/")
    arguments = ("--cache-dir", str(tmp_path / "cache"), "--root", str(tmp_path), f"{registry.host}/app:1")

    def checked() -> dict[str, str]:
        _, found = check(capfdbinary, *arguments)
        (finding,) = [each for each in found if each["subject"] == "registry"]
        return finding

    without = checked()
    assert without["level"] == "error"
    assert "requires a login" in without["message"]
    assert "imagePullSecrets of a Pod after its pull only" in without["advice"]
    keychain = Keychain(Access())
    keychain.replace(f"{registry.host}/app", Credentials("me", "s3cr3t"))
    with answering(tmp_path / SOCKET, keychain):
        assert checked()["level"] == "ok"


def test_a_socket_without_a_snapshotter(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, root: None) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))  # and refuses connections
        _, found = check(capfdbinary, "--address", str(path))
    (message,) = [each["message"] for each in found if each["subject"] == "snapshotter"]
    assert message.startswith(f"no answer at {path}: UNAVAILABLE")


def test_the_extra_is_missing(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: None
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "ocifs.snapshotter.check.sockets", raising=False)
    _, found = check(capfdbinary, "--address", str(tmp_path / "s.sock"))
    (message,) = [each["message"] for each in found if each["subject"] == "snapshotter"]
    assert message == "ocifs snapshotter needs grpc, which is not installed: pip install 'ocifs[containerd]'"
