"""Mounts whose daemon is gone, mounts that are in the way of another, and mounts that lie in more than one place."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import Image, Layer, blob_path, digest, write_layout
from tests.tars import file, tar


def listed(ocifs: Ocifs) -> dict[str, dict[str, Any]]:
    """Return what `ocifs mounts` says of the mounts of this test, by mountpoint."""
    found = json.loads(ocifs.output("mounts", "--json"))
    return {mount["mountpoint"]: mount for mount in found if mount["mountpoint"].startswith(f"{ocifs.home}/")}


def kill(ocifs: Ocifs) -> None:
    for pid in ocifs.processes():
        os.kill(pid, signal.SIGKILL)


def killed(ocifs: Ocifs, image: Path) -> Path:
    """Mount, and kill the daemon."""
    mountpoint = ocifs.mountpoint()
    ocifs.output("mount", image, mountpoint)
    kill(ocifs)
    return mountpoint


def test_right_after_the_kill_a_mount_is_dead_and_nothing_else(ocifs: Ocifs, small: Path) -> None:
    for _ in range(depth(2, 50)):
        mountpoint = ocifs.mountpoint()
        ocifs.output("mount", small, mountpoint)
        (daemon,) = ocifs.processes()
        os.kill(daemon, signal.SIGSTOP)  # so it is still there when the next command looks
        os.kill(daemon, signal.SIGKILL)
        result = ocifs.run("mount", small, mountpoint)
        assert result.code == 7
        assert f"{mountpoint} is a dead mount: clear it with `ocifs umount {mountpoint}`" in result.err
        ocifs.output("umount", mountpoint)
        assert ocifs.leftovers() == []


def test_what_is_bound_elsewhere_is_dead_there_too(ocifs: Ocifs, small: Path, root: None) -> None:
    mountpoint, elsewhere = ocifs.mountpoint(), ocifs.mountpoint()
    ocifs.output("mount", small, mountpoint)
    subprocess.run(["mount", "--bind", mountpoint, elsewhere], check=True)
    assert {path: mount["state"] for path, mount in listed(ocifs).items()} == {
        str(mountpoint): "mounted",
        str(elsewhere): "mounted",
    }
    assert listed(ocifs)[str(elsewhere)]["image"] == str(small)
    kill(ocifs)
    assert {mount["state"] for mount in listed(ocifs).values()} == {"dead"}
    ocifs.output("umount", elsewhere, mountpoint)
    assert ocifs.leftovers() == []


def test_replace_takes_the_place_of_a_dead_mount(ocifs: Ocifs, small: Path) -> None:
    mountpoint = killed(ocifs, small)
    ocifs.output("mount", "--replace", small, mountpoint)
    assert (mountpoint / "hello").read_text() == "hello\n"
    assert [mount["state"] for mount in listed(ocifs).values()] == ["mounted"]
    ocifs.output("umount", mountpoint)
    assert ocifs.leftovers() == []


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "other", Image(layers=(Layer(tar([file(b"other", b"another image")])),)))


def test_replace_takes_the_place_of_a_live_mount(ocifs: Ocifs, small: Path, other: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        complaint = ocifs.run("mount", other, mountpoint).err
        assert "is already a mountpoint" in complaint
        assert f"`ocifs umount {mountpoint}` first, or use --replace" in complaint
        ocifs.output("mount", "--replace", other, mountpoint)
        assert os.listdir(mountpoint) == ["other"]
        deadline = time.monotonic() + 20
        while len(ocifs.processes()) > 1 and time.monotonic() < deadline:  # the former daemon may just be ending
            time.sleep(0.02)
        assert len(ocifs.processes()) == 1


def test_replace_needs_nothing_to_replace(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.mountpoint()
    ocifs.output("mount", "--replace", small, mountpoint)
    ocifs.output("umount", mountpoint)


def test_replace_leaves_a_mount_that_is_in_use(ocifs: Ocifs, small: Path, other: Path) -> None:
    with ocifs.mounted(small) as mountpoint, (mountpoint / "hello").open():
        result = ocifs.run("mount", "--replace", other, mountpoint)
        assert (result.code, f"({os.getpid()})" in result.err) == (7, True)
        assert (mountpoint / "hello").read_text() == "hello\n"


def test_replace_leaves_a_mount_if_the_new_image_cannot_be(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        assert ocifs.run("mount", "--replace", "/dev/null", mountpoint).code == 5
        assert (mountpoint / "hello").read_text() == "hello\n"


@pytest.mark.parametrize("ours_on_top", [False, True])
def test_replace_leaves_what_is_not_of_ocifs(ocifs: Ocifs, small: Path, root: None, ours_on_top: bool) -> None:
    mountpoint = ocifs.mountpoint()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mountpoint], check=True)
    (mountpoint / "kept").touch()
    try:
        if ours_on_top:
            elsewhere = ocifs.mountpoint()
            ocifs.output("mount", small, elsewhere)
            subprocess.run(["mount", "--move", elsewhere, mountpoint], check=True)
        result = ocifs.run("mount", "--replace", small, mountpoint)
        assert result.code == 7
        assert "is already a mountpoint (tmpfs)" in result.err
        assert os.listdir(mountpoint) == (["dir", "hello"] if ours_on_top else ["kept"])
    finally:
        for _ in range(1 + ours_on_top):
            subprocess.run(["umount", mountpoint], check=True)


def test_a_daemon_that_a_bind_mount_keeps_is_said_at_once_to_be_kept(ocifs: Ocifs, small: Path, root: None) -> None:
    mountpoint, elsewhere = ocifs.mountpoint(), ocifs.mountpoint()
    ocifs.output("mount", small, mountpoint)
    subprocess.run(["mount", "--bind", mountpoint / "dir", elsewhere], check=True)
    began = time.monotonic()
    result = ocifs.run("umount", mountpoint)
    (pid,) = ocifs.processes()
    assert time.monotonic() - began < 8
    assert result.code == 7
    assert result.err == f"ocifs: {mountpoint} is unmounted, but its daemon {pid} still runs, kept by {elsewhere}\n"
    ocifs.output("umount", elsewhere)
    assert ocifs.leftovers() == []


def test_a_bind_mount_goes_and_its_daemon_stays_for_the_other(ocifs: Ocifs, small: Path, root: None) -> None:
    with ocifs.mounted(small) as mountpoint:
        elsewhere = ocifs.mountpoint()
        subprocess.run(["mount", "--bind", mountpoint, elsewhere], check=True)
        ocifs.output("umount", elsewhere)
        assert (mountpoint / "hello").read_text() == "hello\n"


_KEEP_ONLY = """
while read -r _ place type _; do
    case $type in fuse*|erofs) [ "$place" = "$1" ] || umount -l "$place" ;; esac
done </proc/self/mounts
echo
read -r line
"""
"""In a new mount namespace: drop the mounts of other tests, which would wait for their daemons."""


@pytest.mark.parametrize("engine", ["erofs"], indirect=True)  # umount waits ten seconds for the process
def test_a_daemon_that_another_mount_namespace_keeps_is_said_to_be_kept(ocifs: Ocifs, small: Path, root: None) -> None:
    mountpoint = ocifs.mountpoint()
    ocifs.output("mount", small, mountpoint)
    keep = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _KEEP_ONLY, "sh", str(mountpoint)]
    with subprocess.Popen(keep, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        result = ocifs.run("umount", mountpoint)
        assert result.code == 7
        assert re.search(rf"still runs, kept by sh \({keeper.pid}\)$", result.err.rstrip())
        keeper.communicate(b"\n")
    assert ocifs.leftovers() == []


def test_mounts_says_what_is_verified_and_when(ocifs: Ocifs, small: Path) -> None:
    before = time.time()
    ocifs.output("index", small)
    after = time.time()
    (entry,) = (ocifs.cache / "entries").glob("layer*")
    os.utime(entry, (after, before))
    with ocifs.mounted(small) as mountpoint:
        (layer,) = listed(ocifs)[str(mountpoint)]["layers"]
        blob = (small / blob_path(layer["blob"])).read_bytes()
        assert digest(blob) == layer["blob"]
        assert layer["diff_id"].startswith("sha256:")
        assert abs(layer["verified_at"] - before) < 0.001
        assert layer["spans"] >= 3
        text = ocifs.output("mounts", "-v")
        said = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(before))
        assert f"layer 0: blob {layer['blob'][:19]} and diff ID {layer['diff_id'][:19]} verified {said}" in text
        assert "layer 0" not in ocifs.output("mounts")


def test_who_mounts_over_a_dead_mount_from_a_shell_is_told_the_same(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.mountpoint()
    ocifs.output("mount", small, mountpoint)
    mount = shlex.join(ocifs.command("mount", small, mountpoint))
    (daemon,) = ocifs.processes()
    ran = subprocess.run(
        ["sh", "-c", f"kill -9 {daemon}; {mount}"], env=ocifs.variables(), capture_output=True, text=True, check=False
    )
    assert "is a dead mount" in ran.stderr
    ocifs.output("umount", mountpoint)
