"""Devices of the host for a container."""

import os
import stat
from pathlib import Path

import pytest

from ocifs.bundle.devices import host_devices, parse_device


@pytest.mark.parametrize(
    ("text", "path", "access"),
    [
        ("/dev/null", "/dev/null", "rwm"),
        ("/dev/null:r", "/dev/null", "r"),
        ("/dev/null:/dev/sub/x", "/dev/sub/x", "rwm"),
        ("/dev/null:/dev/x:mr", "/dev/x", "rm"),
    ],
)
def test_a_device(text: str, path: str, access: str) -> None:
    found = parse_device(text)
    assert (found.source, found.path, found.access) == ("/dev/null", path, access)
    assert (found.kind, found.major, found.minor) == ("c", 1, 3)
    assert found.mode == stat.S_IMODE(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not /dev/HOST"),
        ("null", "is not /dev/HOST"),
        ("/dev/null:/dev/x:rw:r", "is not /dev/HOST"),
        ("/dev/null:/dev/x:rwz", "is not /dev/HOST"),
        ("/dev/null:/etc/x", "below /dev"),
        ("/dev/null:/dev/../etc/x", "below /dev"),
        ("/dev/null:/dev/", "below /dev"),
        ("/dev/none", "No such file"),
        ("/dev:/dev/x", "is not a device"),
        ("/etc/passwd:/dev/x", "is not a device"),
        ("/dev/null:/dev/\udcff", "not UTF-8"),
    ],
)
def test_what_is_none(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_device(text)


def test_all_devices_but_those_that_the_runtime_makes(tmp_path: Path, root: None) -> None:
    (tmp_path / "bus").mkdir()
    (tmp_path / "pts").mkdir()
    for name in ("null", "mine", "bus/deep", "pts/0"):
        os.mknod(tmp_path / name, 0o600 | stat.S_IFCHR, os.makedev(1, 7))
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "file").touch()
    found = {each.path.removeprefix(f"{tmp_path}/"): (each.major, each.minor) for each in host_devices(tmp_path)}
    assert found == {"mine": (1, 7), "bus/deep": (1, 7)}
