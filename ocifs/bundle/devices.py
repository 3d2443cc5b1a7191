"""Device nodes of the host in a container: those of `--device`, and all of them for `--privileged`.

The runtime creates nodes below `/dev` only, which is a file system of its own: nothing of the image is there.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ocifs.bundle.paths import check_utf8
from ocifs.errors import printable_path

_ACCESS = re.compile(r"[rwm]{1,3}")
_OF_THE_RUNTIME = {"console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"} | {
    "stdout",
    "tty",
    "urandom",
    "zero",
}
"""Names in /dev that the runtime makes itself."""
_DEPTH = 4


class DeviceRequest(NamedTuple):
    """A device node for a container."""

    source: str
    """Absolute path of the host."""
    path: str
    """Path in the container, below /dev."""
    access: str
    """Letters r, w and m (mknod)."""
    kind: str
    """c or b."""
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


def parse_device(text: str) -> DeviceRequest:
    """Parse `HOST[:CONTAINER][:ACCESS]`, as podman-run(1). Raises ValueError."""
    source, *rest = text.split(":")
    access = rest.pop() if rest and _ACCESS.fullmatch(rest[-1]) else "rwm"
    path = rest.pop(0) if rest else source
    if rest or not source.startswith("/"):
        raise ValueError(f"{text!r} is not /dev/HOST[:/dev/CONTAINER][:rwm]")
    if os.path.normpath(path) != path or not path.startswith("/dev/"):
        raise ValueError(f"{path!r} is not a path below /dev in the container: write {source}:/dev/NAME")
    try:
        return _request(source, path, access, os.stat(source))
    except OSError as error:
        raise ValueError(f"{printable_path(source)}: {error.strerror}") from None


def host_devices(directory: Path = Path("/dev"), depth: int = _DEPTH) -> Iterator[DeviceRequest]:
    """Yield the devices of the host, but those that the runtime makes itself."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name in _OF_THE_RUNTIME and depth == _DEPTH:
            continue
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and depth:
                yield from host_devices(Path(entry.path), depth - 1)
            elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                yield _request(entry.path, entry.path, "rwm", status)
        except (OSError, ValueError):  # removed meanwhile, or a name that is not UTF-8
            continue


def _request(source: str, path: str, access: str, status: os.stat_result) -> DeviceRequest:
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
    if not kind:
        raise ValueError(f"{printable_path(source)} is not a device")
    check_utf8(source)
    check_utf8(path)
    return DeviceRequest(
        source,
        path,
        "".join(letter for letter in "rwm" if letter in access),
        kind,
        os.major(status.st_rdev),
        os.minor(status.st_rdev),
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
    )
