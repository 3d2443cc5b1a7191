"""Findings about literal configurations of containerd 1.6 to 2.x, of k3s and of Docker."""

import json
import tomllib
from pathlib import Path

import pytest

from ocifs.errors import OcifsError
from ocifs.snapshotter.check.containerd import Expected, check_containerd, check_docker
from ocifs.snapshotter.check.containerd_config import ContainerdConfig, parse_version, read_config

PATH = Path("/etc/containerd/config.toml")
EXPECTED = Expected(
    "ocifs", Path("/run/ocifs/snapshotter.sock"), Path("/var/lib/ocifs/snapshotter"), Path("/no/certs.d"), True
)

PROXY = """
[proxy_plugins.ocifs]
  type = "snapshot"
  address = "/run/ocifs/snapshotter.sock"
  capabilities = ["remap-ids"]
"""
EXPORTS = """
[proxy_plugins.ocifs.exports]
  root = "/var/lib/ocifs/snapshotter"
"""
ANNOTATED = '  enable_remote_snapshot_annotations = "true"\n'
CRI_OF_1 = """
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "ocifs"
  disable_snapshot_annotations = false
"""
CRI_OF_2 = """
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "ocifs"
"""
RUNTIMES = """
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""
LOCAL = CRI_OF_2 + "disable_snapshot_annotations = false"
UNPACK = """
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "ocifs"
"""
CONNECTED = "ok containerd: [proxy_plugins.ocifs] connects to /run/ocifs/snapshotter.sock"
ANNOTATES = "ok CRI: pulls with ocifs, with annotations"
TRANSFERS = "ok CRI: pulls with ocifs through the transfer service, with annotations"
NO_ROOT = "warning containerd: [proxy_plugins.ocifs] does not export its directory, so kubelet does not count its disk"
UNTOLD = "error CRI: containerd does not tell ocifs which image a layer belongs to, so it unpacks all images"
UNTOLD_BY_TRANSFER = "error CRI: the transfer service does not tell ocifs which image a layer belongs to"
NOT_UNPACKED = "error CRI: the transfer service has no unpack_config for ocifs, so pulls fail"


def found(text: str, version: tuple[int, int], expected: Expected = EXPECTED) -> list[str]:
    findings = check_containerd(ContainerdConfig(tomllib.loads(text), version), PATH, expected)
    return [f"{each.level} {each.subject}: {each.message}" for each in findings]


GOOD = [
    ((1, 6), "version = 2" + PROXY + CRI_OF_1, [CONNECTED, ANNOTATES]),
    ((1, 7), "version = 2" + PROXY + CRI_OF_1, [CONNECTED, ANNOTATES]),
    (
        (1, 6),
        '[plugins.cri.containerd]\nsnapshotter="ocifs"\ndisable_snapshot_annotations=false' + PROXY,
        [CONNECTED, ANNOTATES],
    ),
    ((2, 0), "version = 3" + PROXY + EXPORTS + LOCAL, [CONNECTED, ANNOTATES]),
    ((2, 1), "version = 3" + PROXY + EXPORTS + LOCAL, [CONNECTED, ANNOTATES]),
    ((2, 1), "version = 3" + PROXY + EXPORTS + ANNOTATED + CRI_OF_2 + UNPACK, [CONNECTED, TRANSFERS]),
    ((2, 2), "version = 2" + PROXY + EXPORTS + CRI_OF_1 + RUNTIMES, [CONNECTED, ANNOTATES]),
]  # fmt: skip


@pytest.mark.parametrize(("version", "text", "expected"), GOOD)
def test_configurations_without_errors(version: tuple[int, int], text: str, expected: list[str]) -> None:
    assert found(text, version) == expected


BAD = [
    ((1, 7), "version = 2", "error containerd: /etc/containerd/config.toml has no section [proxy_plugins.ocifs]"),
    ((1, 7), "version = 2\nproxy_plugins = 7", "error containerd: /etc/containerd/config.toml has no section"),
    ((1, 7), PROXY.replace("snapshot\"", "content\""), "error containerd: [proxy_plugins.ocifs] has another type"),
    ((1, 7), PROXY.replace("/run", "/tmp/\\u001b"), "has address '/tmp/\\x1b/ocifs/snapshotter.sock', not that of"),
    ((1, 7), "version = 2" + PROXY, "error CRI: [plugins.\"io.containerd.grpc.v1.cri\".containerd] has snapshotter"),
    ((1, 7), "version = 2" + PROXY + CRI_OF_1.replace("false", "true"), UNTOLD),
    ((1, 7), "version = 2" + PROXY + CRI_OF_1.replace("disable_", "# "), UNTOLD),
    ((1, 7), "disabled_plugins = [\"cri\"]" + PROXY, "error CRI: its plugin is disabled in containerd"),
    ((1, 7), "version = 2\ndisabled_plugins = [\"cri\"]" + PROXY, "containerd cannot start with 'cri' in"),
    ((1, 7), "version = 3" + PROXY, "has version = 3, which containerd 1.7 cannot read"),
    ((1, 5), "version = 2" + PROXY + CRI_OF_1, "warning containerd: version 1.5 is older than 1.6"),
    ((1, 7), "version = 2" + PROXY + CRI_OF_1 + CRI_OF_2, "containerd 1.7 ignores [plugins.\"io.containerd.cri"),
    ((2, 0), "version = 3" + PROXY + CRI_OF_1, "containerd 2.0 ignores [plugins.\"io.containerd.grpc"),
    ((2, 1), "version = 2" + PROXY + CRI_OF_1, "drops [plugins.\"io.containerd.grpc.v1.cri\".containerd] of a file of"),
    ((2, 0), "version = 3" + PROXY + CRI_OF_2, UNTOLD),
    ((2, 0), "version = 3" + PROXY + CRI_OF_2, NO_ROOT),
    ((2, 0), "version = 3" + PROXY.replace("remap-ids", "x"), "copies whole images for Pods in user namespaces"),
    ((2, 0), "version = 3" + PROXY.replace("[\"remap-ids\"]", "7"), "copies whole images for Pods in user namespaces"),
    ((2, 1), "version = 3" + PROXY + EXPORTS + CRI_OF_2, UNTOLD_BY_TRANSFER),
    ((2, 1), "version = 3" + PROXY + EXPORTS + ANNOTATED + CRI_OF_2, NOT_UNPACKED),
    ((2, 1), "version = 3" + PROXY + EXPORTS + CRI_OF_2 + "use_local_image_pull = true", UNTOLD),
    ((2, 1), "version = 3" + PROXY + EXPORTS + CRI_OF_2 + "max_concurrent_downloads = 5", UNTOLD),
    (
        (1, 7),
        "version = 2" + PROXY + CRI_OF_1 + '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]\n'
        'snapshotter = "devmapper"',
        "warning CRI: Pods of the runtime kata use snapshotter 'devmapper'",
    ),
    (
        (1, 7),
        "version = 2" + PROXY + CRI_OF_1 + '[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n'
        'endpoint = ["https://m"]',
        "warning registries: containerd's registry.mirrors and registry.configs are deprecated",
    ),
    (
        (1, 7),
        "version = 2" + PROXY + CRI_OF_1 + '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/other"',
        "warning registries: containerd reads hosts.toml files in /other, ocifs in /no/certs.d",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("version", "text", "expected"), BAD)
def test_configurations_with_errors(version: tuple[int, int], text: str, expected: str) -> None:
    messages = found(text, version)
    assert any(expected in each for each in messages), messages


def test_every_problem_comes_with_advice() -> None:
    for version, text, _ in BAD:
        for finding in check_containerd(ContainerdConfig(tomllib.loads(text), version), PATH, EXPECTED):
            assert (finding.level == "ok") == (finding.advice == "")
            assert "\n" not in str(finding)


def test_without_kubelet_it_is_no_error_that_pods_do_not_use_it() -> None:
    expected = EXPECTED._replace(has_kubelet=False)
    for text in (
        "version = 2",
        'disabled_plugins = ["cri"]',
        'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]',
    ):
        assert not [each for each in found(text + PROXY, (1, 7), expected) if each.startswith("error")]


def test_hosts_that_containerd_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io/hosts.toml").write_text("")
    expected = EXPECTED._replace(hosts_dir=tmp_path)
    text = "version = 2" + PROXY + CRI_OF_1
    assert found(text, (1, 7), expected)[-1].endswith(f"reads hosts.toml files in {tmp_path}, containerd does not")
    path = f'[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/x:{tmp_path}/"'
    assert found(text + path, (1, 7), expected) == [CONNECTED, ANNOTATES]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"features": {"containerd-snapshotter": True}, "storage-driver": "ocifs"}, ["ok"]),
        ({"storage-driver": "ocifs"}, ["error"]),
        ({"features": {"containerd-snapshotter": True}}, ["warning"]),
        ({"features": 7, "storage-driver": "overlay2"}, []),
        ({}, []),
        ([], []),
    ],
)
def test_docker(document: object, expected: list[str]) -> None:
    assert [each.level for each in check_docker(json.loads(json.dumps(document)), EXPECTED)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n", (1, 6)),
        ("containerd containerd.io 1.7.24 88bf19b2105c8b17560993bee28a01ddc2f97182\n", (1, 7)),
        ("containerd github.com/containerd/containerd/v2 v2.1.0-rc.0 abc\n", (2, 1)),
        ("v2.0.5-k3s1", (2, 0)),
        ("containerd", None),
        ("", None),
    ],
)
def test_versions(text: str, expected: tuple[int, int] | None) -> None:
    assert parse_version(text) == expected


def test_an_imported_file_replaces_sections_of_plugins(tmp_path: Path) -> None:
    """As containerd merges them: another file's section of the CRI plugin replaces all of it."""
    (tmp_path / "conf.d").mkdir()
    main = tmp_path / "config.toml"
    main.write_text(f'version = 2\nimports = ["{tmp_path}/conf.d/*.toml", "more.toml"]' + CRI_OF_1)
    (tmp_path / "conf.d/10-ocifs.toml").write_text("version = 2" + PROXY)
    (tmp_path / "more.toml").write_text('imports = ["config.toml"]\n[plugins."io.containerd.grpc.v1.cri"]\nx = 1')
    config = ContainerdConfig(read_config(main), (1, 7))
    assert config.proxy_plugins["ocifs"]["type"] == "snapshot"
    assert config.cri_images == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version = ", "cannot use .*config.toml: Invalid value"),
        (b"\xff", "cannot use .*config.toml: 'utf-8' codec"),
        (b"a = " + b"[" * 5000, "cannot use .*config.toml: "),
        (b"#" * ((1 << 20) + 1), "larger than 1048576 bytes"),
        (b'imports = ["missing.toml"]', "missing.toml: No such file or directory"),
        (b'imports = ["a\\u0000"]', "a.*: embedded null byte"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "config.toml").write_bytes(data)
    with pytest.raises(OcifsError, match=message):
        read_config(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("**.toml", {"a": 1, "b": 2}), ("x.**/***l", {"c": 3}), ("x.d/**", {"c": 3}), ("nowhere/**x", {})],
)
def test_patterns_of_imports_are_those_of_go(tmp_path: Path, pattern: str, found: dict[str, int]) -> None:
    """`**` is no other than `*`."""
    (tmp_path / "conf/x.d").mkdir(parents=True)
    (tmp_path / "conf/a.toml").write_text("a = 1")
    (tmp_path / "conf/b.toml").write_text("b = 2")
    (tmp_path / "conf/x.d/c.toml").write_text("c = 3")
    (tmp_path / "config").write_text(f"imports = ['conf/{pattern}']")
    values = read_config(tmp_path / "config")
    assert {key: value for key, value in values.items() if key != "imports"} == found


def test_too_many_imports(tmp_path: Path) -> None:
    for number in range(70):
        (tmp_path / f"{number}.toml").write_text("")
    (tmp_path / "config.toml").write_text('imports = ["*.toml"]')
    with pytest.raises(OcifsError, match="more than 64 files"):
        read_config(tmp_path / "config.toml")
