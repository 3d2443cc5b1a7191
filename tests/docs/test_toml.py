"""containerd's configurations in the documentation: `ocifs snapshotter check` finds nothing wrong with them."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from ocifs.snapshotter.check.containerd import Expected, check_containerd, check_docker
from ocifs.snapshotter.check.containerd_config import ContainerdConfig, Version
from tests.docs.test_recipes import DOCUMENTS
from tests.docs.toml_blocks import Table, containerd_1, containerd_2, merged, to_toml, toml_blocks, with_docker

_EXPECTED = Expected(
    "ocifs",
    Path("/run/ocifs/snapshotter.sock"),
    Path("/var/lib/ocifs/snapshotter"),
    Path("/etc/containerd/certs.d"),
    True,
)
_CONNECTED = "[proxy_plugins.ocifs] connects to /run/ocifs/snapshotter.sock"
_ANNOTATED = "pulls with ocifs, with annotations"
_TRANSFERRED = "pulls with ocifs through the transfer service, with annotations"
_NO_ROOT = "[proxy_plugins.ocifs] does not export its directory, so kubelet does not count its disk space"


def found(table: Table, version: Version, expected: Expected = _EXPECTED) -> list[str]:
    config = ContainerdConfig(tomllib.loads(to_toml(table)), version)
    return [each.message for each in check_containerd(config, Path("/etc/containerd/config.toml"), expected)]


@pytest.mark.parametrize("version", [(1, 6), (1, 7)])
def test_containerd_1(version: Version) -> None:
    assert found(containerd_1(), version) == [_CONNECTED, _ANNOTATED]


@pytest.mark.parametrize(("version", "pulls"), [((2, 0), None), ((2, 1), _TRANSFERRED), ((2, 2), _TRANSFERRED)])
def test_containerd_2(version: Version, pulls: str | None) -> None:
    """containerd 2.0 needs `disable_snapshot_annotations`, as the text below the block says."""
    local = {"plugins": {"io.containerd.cri.v1.images": {"disable_snapshot_annotations": False}}}
    if pulls is not None:
        assert found(containerd_2(), version) == [_CONNECTED, pulls]
    assert found(merged(containerd_2(), local), version) == [_CONNECTED, _ANNOTATED]


def test_kind() -> None:
    """The patches of kind go into a file of version 3 that has no `config_path` for hosts.toml files."""
    (text,) = [text for text in DOCUMENTS.values() if "containerdConfigPatches" in text]
    (patch,) = yaml.safe_load(text)["containerdConfigPatches"]
    assert found({"version": 3, **tomllib.loads(patch)}, (2, 1)) == [_CONNECTED, _NO_ROOT, _ANNOTATED]


@pytest.mark.parametrize("version", [(1, 7), (2, 1)])
def test_docker(version: Version) -> None:
    """Docker's packages disable the CRI plugin, which is no error without kubelet."""
    for more in ({"disabled_plugins": ["cri"]}, {"version": 2, "disabled_plugins": ["io.containerd.grpc.v1.cri"]}):
        messages = found(with_docker() | more, version, _EXPECTED._replace(has_kubelet=False))
        assert messages[0] == _CONNECTED
        assert messages[-1] == "its plugin is disabled in containerd"
    (text,) = re.findall(r"```json\n(.*?)```", (Path(__file__).parents[2] / "docs/docker.md").read_text(), re.DOTALL)
    assert [each.message for each in check_docker(json.loads(text), _EXPECTED)] == ["uses ocifs"]


def test_settings_survive_as_toml() -> None:
    for page in ("kubernetes.md", "docker.md"):
        for block in toml_blocks(page):
            table = tomllib.loads(block)
            assert tomllib.loads(to_toml(table)) == table
