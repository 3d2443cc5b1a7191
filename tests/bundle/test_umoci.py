"""The config.json beside that of `umoci unpack`, for images with something to say: each difference has its reason."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import ocifs
from ocifs.bundle.config import Host, runtime_spec
from ocifs.bundle.overrides import Overrides
from ocifs.bundle.runtime_spec import to_json
from ocifs.image.passwd import Accounts
from ocifs.spec.platform import Platform
from tests.images import Image, Json, Layer, write_layout
from tests.tars import directory, file, tar

_PREFIX = "org.opencontainers.image."
_MEMBERS = [
    directory(b"etc/"),
    file(b"etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:\n"),
    file(b"etc/group", b"root:x:0:\nadm:x:4:web\nweb:x:34:\naudio:x:29:web,root\n"),
]

_ALWAYS = {
    "ociVersion": "a released version, not the one in development when umoci's default was copied",
    "hostname": "each names itself",
    "process.capabilities.bounding": "podman's, with which entrypoints can chown and become another user",
    "process.capabilities.effective": "likewise",
    "process.capabilities.permitted": "likewise",
    "process.capabilities.inheritable": "runc's default of today has none (CVE-2022-29162)",
    "process.capabilities.ambient": "runc's default of today has none: they were without effect",
    "linux.maskedPaths": "runc's default of today",
    "linux.readonlyPaths": "runc's default of today masks /proc/asound instead",
}
_EMPTY = {
    f"annotations.{_PREFIX}{name}": "what the image does not say is no annotation"
    for name in ("author", "exposedPorts", "stopSignal")
}
_NOT_CREATED = {f"annotations.{_PREFIX}created": "what the image does not say is no annotation, not the year 1"}
_USUAL = _ALWAYS | _EMPTY | _NOT_CREATED

_CONFIGS: dict[str, tuple[Json, Json, dict[str, str]]] = {
    "a command": ({"Cmd": ["/bin/sh", "-c", "true"]}, {}, _USUAL),
    "an entrypoint with arguments": ({"Entrypoint": ["/init", "--"], "Cmd": ["a", "b c"]}, {}, _USUAL),
    "an environment": ({"Cmd": ["x"], "Env": ["PATH=/opt/bin", "A=1", "B=", "A=2", "C=d=e"]}, {}, _USUAL),
    "its own home directory": (
        {"Cmd": ["x"], "Env": ["HOME=/own"]},
        {},
        _USUAL | {"process.env": "conversion.md: no variable of the image is replaced; umoci takes passwd's HOME"},
    ),
    "a working directory": ({"Cmd": ["x"], "WorkingDir": "/srv/app"}, {}, _USUAL),
    "a user with groups": ({"Cmd": ["x"], "User": "web"}, {}, _USUAL),
    "a user by number and a group by name": ({"Cmd": ["x"], "User": "33:adm"}, {}, _USUAL),
    "a user by number only": ({"Cmd": ["x"], "User": "1234"}, {}, _USUAL),
    "volumes, ports, a stop signal and an author": (
        {
            "Cmd": ["x"],
            "Volumes": {"/data": {}, "/cache": {}},
            "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGQUIT",
            "Labels": {"maintainer": "somebody"},
        },
        {"author": "somebody else", "created": "2026-01-02T03:04:05Z"},
        _ALWAYS | {"mounts": "as in podman a volume has the image's content, which it has in a writable rootfs anyway"},
    ),
    "labels with the names of fields, and a variant": (
        {"Cmd": ["x"], "Labels": {f"{_PREFIX}os": "by label", f"{_PREFIX}author": "by label"}},
        {"architecture": "arm", "variant": "v7", "author": "by field", "created": "2026-01-02T03:04:05Z"},
        _ALWAYS
        | {
            f"annotations.{_PREFIX}exposedPorts": "what the image does not say is no annotation",
            f"annotations.{_PREFIX}stopSignal": "what the image does not say is no annotation",
            f"annotations.{_PREFIX}os": "conversion.md: the label takes precedence",
            f"annotations.{_PREFIX}author": "conversion.md: the label takes precedence",
            f"annotations.{_PREFIX}variant": "conversion.md has it; umoci does not",
        },
    ),
}


@pytest.mark.parametrize("name", _CONFIGS)
def test_every_difference_has_a_reason(name: str, tmp_path: Path, root: None) -> None:
    if shutil.which("umoci") is None:
        pytest.skip("umoci is missing")
    config, image, reasons = _CONFIGS[name]
    layout = write_layout(tmp_path / "image", Image(layers=(Layer(tar(_MEMBERS)),), config={"config": config} | image))
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:latest", tmp_path / "bundle"], check=True)
    theirs = json.loads((tmp_path / "bundle/config.json").read_bytes())
    platform = Platform("linux", str(image.get("architecture", "amd64")), str(image.get("variant", "")))
    with ocifs.open_image(layout, ocifs.Options(platform=platform)) as opened:
        spec = runtime_spec(
            opened.resolved.config, Accounts.of(opened.rootfs), Overrides(), Host(readonly=False), pytest.fail
        )
    ours = json.loads(to_json(spec))
    assert differences(ours, theirs) == set(reasons)


def differences(one: Any, other: Any, where: str = "") -> set[str]:
    """Return the paths of members that differ, or that only one has."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return set() if one == other else {where.lstrip(".")}
    return {
        path
        for key in one.keys() | other.keys()
        for path in differences(one.get(key), other.get(key), f"{where}.{key}")
    }
