"""A mount of a real image is what `umoci unpack` makes of it, however the image is stored."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.layer.span_cache import DEFAULT_CAPACITY
from tests.cli.command import Ocifs
from tests.debian.recompress import recompress
from tests.debian.view import view
from tests.depth import depth

_DAEMON_RSS = 60_000_000
"""Bytes that the daemon may take besides its span cache."""
_SPARE_SLOTS = DEFAULT_CAPACITY // 8
"""Bytes that the memory for spans may have beyond the capacity of the cache."""


Unpacked = Callable[[str], frozenset[bytes]]
_TAG = depth("base", "latest")


def test_rsync_finds_nothing_to_do(mounted: tuple[str, Path], debian: Path) -> None:
    tag, mountpoint = mounted
    unpacked = debian / f"bundle-{tag}/rootfs"
    command = ["rsync", "-aHAXn", "--numeric-ids", "--delete", "--itemize-changes"]
    for source, target in [(mountpoint, unpacked), (unpacked, mountpoint)]:
        ran = subprocess.run([*command, f"{source}/", f"{target}/"], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_every_attribute_and_byte_is_the_same(mounted: tuple[str, Path], unpacked: Unpacked) -> None:
    tag, mountpoint = mounted
    assert view(mountpoint) ^ unpacked(tag) == set()


def test_an_ordinary_user_s_own_mount_shows_what_that_user_would_see(user: Ocifs, debian: Path, root: None) -> None:
    image = user.home / "image"
    image.mkdir()
    parts = [debian / name for name in ("blobs", "index.json", "oci-layout")]
    subprocess.run(["cp", "-r", "--reflink=auto", "-t", image, *parts], check=True)
    subprocess.run(["chmod", "-R", "a+rX", image], check=True)
    with user.mounted(f"{image}:{_TAG}") as mountpoint:
        seen = view(mountpoint, user.become)
    assert seen ^ view(debian / f"bundle-{_TAG}/rootfs", within=user.become) == set()


Form = Callable[[Path, str, Path], str]


def _copied_to(kind: str) -> Form:
    def copy(layout: Path, tag: str, target: Path) -> str:
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}:{tag}"]
        reference = f"{kind}:{target}:debian:latest" if kind == "docker-archive" else f"{kind}:{target}:latest"
        subprocess.run([*command, reference], check=True)
        return reference

    return copy


def _recompressed(command: list[str], suffix: str) -> Form:
    return lambda layout, tag, target: str(recompress(layout, tag, target, command, suffix))


_FORMS: dict[str, tuple[str, Form]] = {
    "oci-archive": (_TAG, _copied_to("oci-archive")),
    "docker-archive": ("latest", _copied_to("docker-archive")),
    "zstd": ("latest", _recompressed(["zstd", "-c", "-1"], "+zstd")),
    "pigz": (_TAG, _recompressed(["pigz", "-c", "-1"], "+gzip")),
    "bgzip": (_TAG, _recompressed(["bgzip", "-c", "-l", "1"], "+gzip")),
    "plain": (_TAG, _recompressed(["cat"], "")),
}
"""Which image, and how it is written."""


@pytest.mark.parametrize("form", _FORMS)
def test_the_same_image_in_another_form_is_the_same_tree(
    ocifs: Ocifs, debian: Path, root: None, unpacked: Unpacked, tmp_path: Path, form: str
) -> None:
    tag, write = _FORMS[form]
    with ocifs.mounted(write(debian, tag, tmp_path / "image")) as mountpoint:
        assert view(mountpoint) ^ unpacked(tag) == set()


@pytest.mark.parametrize("engine", ["fuse", "erofs"])
def test_the_daemon_stays_small(
    request: pytest.FixtureRequest, session_ocifs: Ocifs, debian: Path, root: None, engine: str
) -> None:
    request.getfixturevalue(engine)
    # A hot pack, which an earlier mount may have left, takes as much memory as it has bytes.
    with session_ocifs.mounted(f"{debian}:latest", "--engine", engine, "--hot-pack", "0") as mountpoint:
        subprocess.run(["find", mountpoint, "-ls"], stdout=subprocess.DEVNULL, check=True)
        subprocess.run(["sh", "-c", f"tar -c {mountpoint} 2>/dev/null | cat >/dev/null"], check=True)
        listed = json.loads(session_ocifs.output("mounts", "--json"))
        (pid,) = (mount["pid"] for mount in listed if mount["mountpoint"] == str(mountpoint))
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found
        assert int(found[1]) * 1024 < _DAEMON_RSS + DEFAULT_CAPACITY + _SPARE_SLOTS
