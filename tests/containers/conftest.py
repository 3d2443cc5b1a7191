"""An image with a few programs of this machine, and the runtimes to run it with."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.images import Image, Json, Layer, write_layout
from tests.tars import directory, file, tar

_PROGRAMS = ("sh", "cat", "chmod", "chown", "dd", "id", "ls", "mkdir", "setpriv", "sleep", "stat", "true")
_DIRECTORIES = (b"./", b"dev/", b"etc/", b"proc/", b"root/", b"srv/", b"sys/")

_WITHOUT_CGROUP2 = """\
#!/bin/sh
exec unshare --mount --propagation slave sh -c 'umount -l /sys/fs/cgroup/unified && exec "$@"' sh {runtime} "$@"
"""
"""crun refuses the hybrid hierarchy of cgroups that some machines have: let it see that of version 1 only."""


@pytest.fixture(autouse=True, scope="session")
def _fuse(fuse: None) -> None:
    """Skip all where nothing can be mounted."""


@functools.cache
def image_of_programs(*more: str) -> Image:
    """Return an image with programs, and others by name, and the shared libraries they need."""
    paths: set[str] = set()
    programs = (*_PROGRAMS, *more)
    for program in programs:
        path = shutil.which(program)
        assert path
        linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        paths |= set(re.findall(r"(/\S+) \(0x", linked))
    members = [directory(name) for name in _DIRECTORIES]
    members[4] = directory(b"root/", mode=0o700)
    members += [
        file(b"bin/" + program.encode(), Path(shutil.which(program) or "").read_bytes(), mode=0o755)
        for program in programs
    ]
    members += [file(path.lstrip("/").encode(), Path(path).read_bytes(), mode=0o755) for path in sorted(paths)]
    members += [
        file(b"etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n"),
        file(b"etc/group", b"root:x:0:\nweb:x:33:\nadm:x:4:web\n"),
        file(b"etc/secret", b"secret\n", mode=0o600),
    ]
    config: Json = {
        "config": {"Cmd": ["/bin/sh", "-c", "echo started by the image"], "Env": ["PATH=/bin", "WHO=image"]}
    }
    return Image(layers=(Layer(tar(members)),), config=config)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("programs") / "image", image_of_programs())


@pytest.fixture(scope="session", params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A runtime that works on this machine, for root."""
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} is missing")
    if name == "runc" or not os.path.exists("/sys/fs/cgroup/unified/cgroup.controllers"):
        return name
    wrapper = tmp_path_factory.mktemp("runtime") / name
    wrapper.write_text(_WITHOUT_CGROUP2.format(runtime=name))
    wrapper.chmod(0o755)
    return str(wrapper)
