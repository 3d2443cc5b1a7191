"""The default is that of runc, with podman's capabilities."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ocifs.bundle.runtime_spec import default_spec, rootless, to_json

_CGROUP2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()


_RUNC = {"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
_PODMAN = [
    f"CAP_{name}"
    for name in (
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    )
]
"""containers.conf(5), `default_capabilities`."""


def written_by_runc(directory: Path, *options: str) -> Any:
    if shutil.which("runc") is None:
        pytest.skip("runc is missing")
    subprocess.run(["runc", "spec", *options], cwd=directory, check=True)
    return json.loads((directory / "config.json").read_bytes())


def as_today(spec: Any) -> Any:
    """Return what an older runc writes as one of today does."""
    spec["ociVersion"] = "1.0.2"  # the version that has all that is in it
    for needless in ("ambient", "inheritable"):  # left out since runc 1.2: without the other neither has an effect
        spec["process"]["capabilities"].pop(needless, None)
    assert all(set(each) == _RUNC for each in spec["process"]["capabilities"].values())
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), _PODMAN)
    if "/sys/devices/virtual/tpm" not in spec["linux"]["maskedPaths"]:  # since runc 1.3
        spec["linux"]["maskedPaths"].append("/sys/devices/virtual/tpm")
    return spec


def test_the_default_is_what_runc_spec_writes(tmp_path: Path) -> None:
    assert json.loads(to_json(default_spec(cgroup2=_CGROUP2))) == as_today(written_by_runc(tmp_path))


def test_rootless_is_what_runc_spec_rootless_writes(tmp_path: Path) -> None:
    spec = rootless(default_spec(cgroup2=_CGROUP2), os.geteuid(), os.getegid())
    assert json.loads(to_json(spec)) == as_today(written_by_runc(tmp_path, "--rootless"))


def test_cgroups_of_version_2_have_a_namespace() -> None:
    assert {each.type for each in default_spec(cgroup2=True).linux.namespaces} - {
        each.type for each in default_spec(cgroup2=False).linux.namespaces
    } == {"cgroup"}
