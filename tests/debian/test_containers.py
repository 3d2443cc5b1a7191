"""A program of the image runs in the mount, by chroot and by the runtimes, and on an overlay of it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.parametrize("mounted", [("tools", "fuse"), ("tools", "erofs")], indirect=True, ids="-".join)

_PROGRAM = ["/usr/bin/python3", "-c", "import json, ssl, sqlite3; print('ran')"]
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_ON_CGROUP_2 = ["unshare", "--mount", "sh", "-c", 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"', "sh"]
"""crun runs on no mixture of both versions."""

_NAMESPACES = ("pid", "ipc", "uts", "mount")


def ran(command: list[str]) -> str:
    """Return what a command prints that does well."""
    run = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ) | _ENVIRONMENT, check=False)
    assert run.returncode == 0, run
    return run.stdout


def test_by_chroot(mounted: tuple[str, Path]) -> None:
    assert ran(["chroot", str(mounted[1]), *_PROGRAM]) == "ran\n"


@pytest.fixture
def merged(mounted: tuple[str, Path], tmp_path: Path) -> Iterator[Path]:
    """Return an overlay of the mount, as a container has it for a rootfs."""
    upper = tmp_path / "tmpfs"
    upper.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", upper], check=True)
    try:
        for name in ("upper", "work", "merged"):
            (upper / name).mkdir()
        options = f"lowerdir={mounted[1]},upperdir={upper}/upper,workdir={upper}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", f"{upper}/merged"], check=True)
        yield upper / "merged"
    finally:
        subprocess.run(["umount", "--recursive", upper], check=True)


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is missing")
    return str(request.param)


def run_in(runtime: str, rootfs: Path, place: Path, arguments: list[str], *, readonly: bool) -> str:
    """Run a container on `rootfs`, with a bundle in `place`; return what it prints."""
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": str(rootfs), "readonly": readonly},
        "process": {
            "args": arguments,
            "cwd": "/",
            "env": [f"PATH={_ENVIRONMENT['PATH']}"],
            "user": {"uid": 0, "gid": 0},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in _NAMESPACES]},
    }
    (place / "config.json").write_text(json.dumps(config))
    run = [runtime, "--root", str(place / "state"), "run", "--bundle", str(place), f"ocifs-{os.getpid()}"]
    return ran([*_ON_CGROUP_2, *run])


def test_in_a_container_on_the_read_only_mount(mounted: tuple[str, Path], runtime: str, tmp_path: Path) -> None:
    assert run_in(runtime, mounted[1], tmp_path, _PROGRAM, readonly=True) == "ran\n"


def test_in_a_container_on_an_overlay(merged: Path, runtime: str, tmp_path: Path) -> None:
    assert run_in(runtime, merged, tmp_path, _PROGRAM, readonly=False) == "ran\n"
    edit = "rm /etc/motd && mkdir /srv/new && mv /usr/share/doc /srv/new && echo written >/etc/issue && cat /etc/issue"
    assert run_in(runtime, merged, tmp_path, ["/bin/sh", "-c", edit], readonly=False) == "written\n"
    assert not (merged / "etc/motd").exists()
    assert (merged / "srv/new/doc").is_dir()
    assert (merged.parent / "upper/etc/issue").read_text() == "written\n"
