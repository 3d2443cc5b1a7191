"""Effects of mount options, mounts that are kept, mountpoints that ocifs creates, and messages to systemd."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, tar
from tests.waiting import wait_for


@pytest.fixture
def script(tmp_path: Path) -> Path:
    members = [directory(b"./", mode=0o755), file(b"script", b"#!/bin/sh\necho ran\n", mode=0o755)]
    return write_layout(tmp_path / "script", Image(layers=(Layer(tar(members)),)))


def test_noexec_lets_no_program_be_executed(ocifs: Ocifs, script: Path) -> None:
    with ocifs.mounted(script) as mountpoint:
        assert subprocess.check_output([mountpoint / "script"]) == b"ran\n"
    for options in (["--noexec"], ["-o", "user"], ["-o", "defaults,noexec"]):
        with ocifs.mounted(script, *options) as mountpoint:
            with pytest.raises(PermissionError):
                subprocess.run([mountpoint / "script"], check=False)
            assert (mountpoint / "script").read_bytes() == b"#!/bin/sh\necho ran\n"


def test_the_same_image_is_kept_and_another_is_not(ocifs: Ocifs, small: Path, script: Path) -> None:
    with ocifs.mounted(small, "-o", "noexec") as mountpoint:
        (daemon,) = ocifs.processes()
        for same in (str(small), f"oci:{small}", f"{small}:latest"):
            ocifs.output("mount", "--keep", "--noexec", same, mountpoint)
            ocifs.output("mount", "-o", "remount,rw,noexec", same, mountpoint)
        assert ocifs.processes() == [daemon]
        other = ocifs.run("mount", "--keep", "--noexec", script, mountpoint)
        assert (other.code, "is already a mountpoint" in other.err) == (7, True)
        changed = ocifs.run("mount", "-o", "remount", small, mountpoint)
        remedy = "`ocifs umount` it first, or use --replace"
        assert changed == (7, b"", f"ocifs: {mountpoint} is mounted with other options (noexec): {remedy}\n")
        os.kill(daemon, signal.SIGKILL)
        wait_for(lambda: ocifs.processes() == [])
        assert ocifs.run("mount", "--keep", "--noexec", small, mountpoint).code == 7
        ocifs.output("mount", "--keep", "--replace", "--noexec", small, mountpoint)
        assert (mountpoint / "hello").read_text() == "hello\n"


def test_nothing_is_remounted_where_nothing_is_mounted(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.mountpoint()
    message = ocifs.complaint(7, "mount", "-o", "remount", small, mountpoint)
    assert message.startswith(f"cannot remount {mountpoint}: {small} is not mounted there")


def test_without_a_mountpoint_one_is_created_and_umount_removes_it(ocifs: Ocifs, small: Path) -> None:
    base = ocifs.runtime / "ocifs/mnt"
    first = Path(ocifs.output("mount", f"{small}:latest").rstrip("\n"))
    second = Path(ocifs.output("mount", f"{small}:latest").rstrip("\n"))
    assert (first, second) == (base / "small-latest", base / "small-latest-2")
    assert (first / "hello").read_text() == (second / "hello").read_text()
    ocifs.output("umount", first)
    assert os.listdir(base) == ["small-latest-2"]
    subprocess.run(["umount", second], check=True)  # the daemon removes it
    wait_for(lambda: os.listdir(base) == [])
    third = Path(ocifs.output("mount", small).rstrip("\n"))
    for pid in ocifs.processes():
        os.kill(pid, signal.SIGKILL)
    ocifs.output("umount", third)
    assert os.listdir(base) == []


@pytest.mark.parametrize("name", ["..", "/", "a\nb", "-", "x" * 500])
def test_a_created_mountpoint_has_a_harmless_name_and_goes_if_mounting_fails(ocifs: Ocifs, name: str) -> None:
    assert ocifs.run("mount", f"/missing/{name}").code == 3
    assert os.listdir(ocifs.runtime / "ocifs/mnt") == []


def test_systemd_is_told_when_it_is_mounted_and_when_it_ends(ocifs: Ocifs, small: Path, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(os.fspath(address))
        systemd.settimeout(30)
        mountpoint = ocifs.mountpoint()
        variables = ocifs.variables(NOTIFY_SOCKET=str(address))
        arguments = ocifs.command("mount", "--foreground", "--replace", small, mountpoint)
        with subprocess.Popen(arguments, env=variables, stderr=subprocess.PIPE) as process:
            assert systemd.recv(4096) == b"READY=1"
            assert (mountpoint / "hello").read_text() == "hello\n"
            process.terminate()
            assert systemd.recv(4096) == b"STOPPING=1"
