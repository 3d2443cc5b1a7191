"""What an ordinary user can and cannot do to root's mounts, caches and runtime files: the table in docs/security.md."""

import ctypes
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocifs.mount.record import runtime_directory
from ocifs.store import Store
from tests.cli.command import Ocifs
from tests.images import Image, Layer, layout_files, write_layout
from tests.registry import Registry
from tests.tars import directory, file, tar

pytestmark = pytest.mark.usefixtures("root")

one_engine = pytest.mark.parametrize("engine", ["fuse"], indirect=True)
"""For what does not depend on the engine."""

_DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def open_image(user: Ocifs) -> Path:
    members = [directory(b"./"), file(b"hello", b"hello\n"), file(b"secret", b"secret\n", mode=0o600)]
    return write_layout(user.home / "open-image", Image(layers=(Layer(tar(members)),)))


def as_user(user: Ocifs, *command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*user.become, *command], capture_output=True, text=True, check=False)


def daemon_of(ocifs: Ocifs) -> int:
    (record,) = (ocifs.runtime / "ocifs").glob("*.json")
    return int(record.stem)


def mine_kept_by_sudo(user: Ocifs) -> dict[str, str]:
    """Return the variables that `sudo -E` and `su` leave as the user has them."""
    return {
        "HOME": str(user.home),
        "XDG_CACHE_HOME": str(user.home / "cache"),
        "XDG_RUNTIME_DIR": str(user.runtime),
        "TMPDIR": str(user.temporary),
    }


def test_reads_a_mount_as_far_as_its_engine_and_the_modes_allow(
    ocifs: Ocifs, engine: str, user: Ocifs, open_image: Path
) -> None:
    with ocifs.mounted(open_image, at=user.mountpoint()) as mountpoint:
        read = {name: as_user(user, "cat", mountpoint / name).returncode == 0 for name in ("hello", "secret")}
    assert read == {"hello": engine == "erofs", "secret": False}


def test_sees_that_there_is_a_mount_but_not_as_one_of_its_own(ocifs: Ocifs, user: Ocifs, open_image: Path) -> None:
    with ocifs.mounted(open_image, at=user.mountpoint()) as mountpoint:
        assert str(mountpoint) in as_user(user, "cat", "/proc/self/mountinfo").stdout
        assert user.output("mounts").count("\n") == 1


def test_cannot_unmount(ocifs: Ocifs, user: Ocifs, open_image: Path) -> None:
    with ocifs.mounted(open_image, at=user.mountpoint()) as mountpoint:
        assert user.run("umount", mountpoint).code == 7
        assert user.run("umount", "--lazy", mountpoint).code == 7
        assert as_user(user, "fusermount3", "-u", "-z", mountpoint).returncode != 0
        assert os.path.ismount(mountpoint)


def test_cannot_mount_over_it(ocifs: Ocifs, user: Ocifs, open_image: Path) -> None:
    with ocifs.mounted(open_image, at=user.mountpoint()) as mountpoint:
        for options in ([], ["--replace"]):
            assert user.run("mount", *options, open_image, mountpoint).code == 7
        assert (mountpoint / "hello").read_text() == "hello\n"


def test_can_keep_a_mount_busy_until_it_is_detached(ocifs: Ocifs, engine: str, user: Ocifs, open_image: Path) -> None:
    options = ["--allow-other"] if engine == "fuse" else []
    with ocifs.mounted(open_image, *options, at=user.mountpoint()) as mountpoint:
        command = [*user.become, "sh", "-c", f"exec <{mountpoint}/hello && echo ready && exec sleep 60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            busy = ocifs.run("umount", mountpoint)
            assert (busy.code, f"({holder.pid})" in busy.err) == (7, True)
            ocifs.output("umount", "--lazy", mountpoint)
            assert not os.path.ismount(mountpoint)
            holder.kill()


def test_cannot_end_the_daemon_or_look_into_it(ocifs: Ocifs, user: Ocifs, open_image: Path) -> None:
    with ocifs.mounted(open_image):
        pid = daemon_of(ocifs)
        assert as_user(user, "sh", "-c", f"kill -KILL {pid}").returncode != 0
        for name in ("fd", "mem", "environ", "maps"):
            assert as_user(user, "sh", "-c", f"ls -l /proc/{pid}/{name}/ || cat /proc/{pid}/{name}").stdout == ""
        assert ocifs.processes() == [pid]


@one_engine
def test_cannot_read_the_cache_the_records_or_the_log(ocifs: Ocifs, user: Ocifs, open_image: Path) -> None:
    ocifs.home.parent.chmod(0o755)  # so that only the directories of ocifs keep the user out
    with ocifs.mounted(open_image):
        for place in (ocifs.cache, ocifs.cache / "entries", ocifs.runtime / "ocifs"):
            assert place.stat().st_mode & 0o7777 == 0o700
            assert as_user(user, "ls", place).returncode != 0


@one_engine
@pytest.mark.parametrize("entries_of", ["user", "root"])
def test_cannot_forge_a_cache_that_root_uses(ocifs: Ocifs, user: Ocifs, open_image: Path, entries_of: str) -> None:
    """Neither by owning the directories, nor by owning only one above those of root."""
    variables = mine_kept_by_sudo(user)
    user.output("index", open_image)
    entries = user.cache / "entries"
    if entries_of == "root":
        subprocess.run(["chown", "-R", "0", user.cache], check=True)
    before = sorted(os.listdir(entries))
    result = ocifs.run("ls", open_image, "/hello", **variables)
    assert result.code == 0
    assert result.err == (
        f"ocifs: warning: cache directory {user.cache}: {user.home} belongs to uid 65534: continuing without it\n"
    )
    assert sorted(os.listdir(entries)) == before


@one_engine
def test_a_cache_in_which_one_directory_is_the_user_s_is_not_used(ocifs: Ocifs, user: Ocifs, open_image: Path) -> None:
    ocifs.output("index", open_image)
    os.chown(ocifs.cache / "entries", 65534, -1)
    result = ocifs.run("ls", open_image)
    assert (result.code, result.err.count("\n")) == (0, 1)
    assert f"{ocifs.cache}/entries belongs to uid 65534: continuing without it" in result.err


@one_engine
def test_an_entry_of_the_user_s_is_made_anew(ocifs: Ocifs, open_image: Path, engine: str) -> None:
    ocifs.output("index", open_image)
    for entry in (ocifs.cache / "entries").iterdir():
        os.chown(entry, 65534, -1)
    assert ocifs.output("cat", open_image, "/hello") == "hello\n"
    assert {entry.stat().st_uid for entry in (ocifs.cache / "entries").iterdir()} == {0}


@one_engine
def test_exchanging_the_cache_after_it_was_opened_changes_nothing(ocifs: Ocifs, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "moved")
    (tmp_path / "cache/entries").mkdir(parents=True)
    (tmp_path / "cache/entries" / f"layer2-sha256-{'0' * 64}").touch()
    assert store.entries() == []


@one_engine
def test_cannot_choose_the_runtime_directory(ocifs: Ocifs, user: Ocifs, monkeypatch: pytest.MonkeyPatch) -> None:
    below = user.home / "of-root"
    below.mkdir()
    for chosen in (user.runtime, below):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(chosen))
        assert runtime_directory().path == Path("/run/ocifs")
        assert os.listdir(chosen) == []


@one_engine
def test_a_user_does_not_use_the_runtime_directory_of_root_either(user: Ocifs, engine: str, tmp_path: Path) -> None:
    shared = user.home / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    user.output("mounts", XDG_RUNTIME_DIR=str(tmp_path), TMPDIR=str(shared))
    assert os.listdir(shared) == ["ocifs-65534"]


@one_engine
def test_cannot_choose_the_service_of_root(ocifs: Ocifs, user: Ocifs) -> None:
    """`tests/service/test_connection.py` has the ways to try; here is the command."""
    (user.runtime / "ocifs").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(ocifs.home / "listener"))
        listener.listen()
        listener.setblocking(False)
        for name in ("service.sock", "commands.sock"):
            (user.runtime / "ocifs" / name).symlink_to(ocifs.home / "listener")
        os.chown(user.runtime / "ocifs", 65534, -1)
        assert ocifs.run("mounts", **mine_kept_by_sudo(user), OCIFS_NO_SERVICE="").code == 0
        with pytest.raises(BlockingIOError):
            listener.accept()


@one_engine
def test_a_fifo_in_place_of_credentials_blocks_no_command(ocifs: Ocifs, user: Ocifs, registry: Registry) -> None:
    for place in (user.runtime / "containers", user.home / ".config/containers"):
        place.mkdir(parents=True)
        os.mkfifo(place / "auth.json")
    reference = registry.add("app", layout_files(Image(layers=(Layer(tar([file(b"hello", b"hello\n")])),))))
    result = ocifs.run("cat", reference, "/hello", **mine_kept_by_sudo(user), XDG_CONFIG_HOME="")
    assert (result.code, result.text) == (0, "hello\n")
    assert result.err.count("auth.json: not a regular file: continuing without its credentials\n") == 2


@one_engine
def test_cannot_look_into_a_podman_store_or_have_root_use_theirs(ocifs: Ocifs, user: Ocifs, open_image: Path) -> None:
    ocifs.home.parent.chmod(0o755)
    store = ocifs.home / "store"
    assert ocifs.run("store", "add", store, open_image).code == 0
    ocifs.output("store", "umount", store)
    assert store.stat().st_mode & 0o7777 == 0o700
    assert as_user(user, "ls", store).returncode != 0
    complaint = ocifs.complaint(8, "store", "add", user.home / "store", open_image)
    assert f"{user.home} belongs to uid 65534" in complaint
    assert not (user.home / "store").exists()
    subprocess.run(["cp", "-r", store, user.home / "store"], check=True)
    subprocess.run(["chown", "-R", "65534", user.home / "store"], check=True)
    assert f"{user.home} belongs to uid 65534" in ocifs.complaint(8, "store", "mount", user.home / "store")


@one_engine
def test_cannot_ask_a_snapshotter_or_have_root_use_their_directory(ocifs: Ocifs, user: Ocifs) -> None:
    pytest.importorskip("grpc")
    from tests.snapshotter.client import running

    ocifs.home.parent.chmod(0o755)
    ocifs.home.chmod(0o755)
    with running(ocifs.home / "snapshotter") as snapshotter:
        (ocifs.home / "snapshotter").chmod(0o755)
        for place in (snapshotter.root, snapshotter.settings.address.parent):
            assert as_user(user, "ls", place).returncode != 0
        snapshotter.settings.address.parent.chmod(0o755)  # then the mode of the socket decides
        connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        tried = as_user(user, user.interpreter, "-S", "-c", connect, snapshotter.settings.address)
        assert "PermissionError" in tried.stderr
    for option, code in (("--root", 8), ("--address", 7)):
        places = {"--root": ocifs.home / "root", "--address": ocifs.home / "s.sock", option: user.home / "theirs"}
        arguments = [str(word) for place in places.items() for word in place]
        complaint = ocifs.complaint(code, "snapshotter", "--no-service", *arguments)
        assert f"{user.home} belongs to uid 65534" in complaint


@one_engine
def test_cannot_have_root_run_a_program_of_theirs(ocifs: Ocifs, user: Ocifs, open_image: Path) -> None:
    """Not by a bundle of their own, and not by one where only the directory above it is theirs."""
    mark = user.home / "mark"
    evil = user.home / "runc"
    evil.write_text(f"#!/bin/sh\ntouch {mark}\n")
    evil.chmod(0o755)
    for owner in (65534, 0):
        bundle = user.home / f"bundle-{owner}"
        (bundle / "state" / bundle.name).mkdir(parents=True)
        bundle.chmod(0o700)
        (bundle / "runtime").write_text(str(evil))
        subprocess.run(["chown", "-R", str(owner), bundle], check=True)
        assert ocifs.run("umount", bundle).code == 7
        assert (bundle / "state").exists()
    assert not mark.exists()


@one_engine
@pytest.mark.parametrize("verb", ["bundle", "run"])
def test_root_makes_no_bundle_where_the_user_could_exchange_it(
    ocifs: Ocifs, user: Ocifs, open_image: Path, verb: str
) -> None:
    if verb == "bundle":
        complaint = ocifs.complaint(7, "bundle", "--args", "x", open_image, user.home / "box")
    else:
        arguments = ["run", "--rootfs", "overlay", str(open_image), "--", "x"]
        complaint = ocifs.complaint(7, *arguments, TMPDIR=str(user.temporary))
    assert "belongs to uid 65534: choose a directory that no other user can write to" in complaint
    assert not (user.home / "box").exists()
    assert os.listdir(user.temporary) == []


@one_engine
def test_cannot_have_root_remove_files_by_a_symlink_in_place_of_a_bundle(
    ocifs: Ocifs, user: Ocifs, tmp_path: Path
) -> None:
    precious = tmp_path / "precious/tmpfs/file"
    precious.parent.mkdir(parents=True)
    precious.touch()
    box = user.home / "box"
    (box / "rootfs").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "ocifs", box / "rootfs"], check=True)
    (box / "tmpfs").symlink_to(tmp_path / "precious/tmpfs")
    os.chown(box, 65534, -1)
    try:
        assert f"{user.home} belongs to uid 65534" in ocifs.run("umount", box).err
    finally:
        subprocess.run(["umount", "-l", box / "rootfs"], check=False)
    assert precious.exists()


@contextmanager
def mounted_by_another(source: bytes, mountpoint: Path) -> Iterator[None]:
    """Mount as fusermount3 does for another user, whom ocifs has not seen; no process serves the mount."""
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=65534,group_id=65534"
    try:
        assert libc.mount(source, bytes(mountpoint), b"fuse.ocifs", 6, options.encode()) == 0
        yield
    finally:
        libc.umount2(bytes(mountpoint), 2)
        os.close(device)


@one_engine
@pytest.mark.parametrize(
    "source", [_DIGEST.encode(), b"\x1b]0;title\x07\x1b[31mred\n\r\xff\xfe", b"sha256:\x1b[31m", b"a\rb c d e f - g h"]
)
def test_cannot_put_anything_in_the_list_of_mounts(ocifs: Ocifs, source: bytes) -> None:
    mountpoint = ocifs.mountpoint()
    with mounted_by_another(source, mountpoint):
        assert str(mountpoint) not in ocifs.output("mounts")
        assert str(mountpoint) not in {each["mountpoint"] for each in json.loads(ocifs.output("mounts", "--json"))}
        result = ocifs.run("umount", mountpoint)
        assert (result.code, result.err.count("\n")) == (7, 1)
        assert "is not an ocifs mount" in result.err


@one_engine
def test_can_take_the_runtime_directory_of_a_user_without_a_session_which_is_noticed(user: Ocifs, engine: str) -> None:
    """Only of an ordinary user without XDG_RUNTIME_DIR; not root's, which is /run/ocifs."""
    shared = user.home / "shared"
    (shared / "ocifs-65534").mkdir(parents=True)
    shared.chmod(0o1777)
    assert user.complaint(7, "mounts", XDG_RUNTIME_DIR="", TMPDIR=str(shared)) == (
        f"{shared}/ocifs-65534 belongs to uid 0: set XDG_RUNTIME_DIR to a directory of your own"
    )


@one_engine
def test_cannot_have_root_delete_their_choice_of_files_as_a_cache(ocifs: Ocifs, user: Ocifs, tmp_path: Path) -> None:
    foreign = user.home / "cache/ocifs"
    (foreign / "entries").mkdir(parents=True)
    name = f"layer2-sha256-{'0' * 64}"
    (foreign / "entries" / name).symlink_to(tmp_path)
    subprocess.run(["chown", "-R", "65534", user.home / "cache"], check=True)
    complaint = ocifs.complaint(8, "cache", "clear", **mine_kept_by_sudo(user))
    assert complaint.startswith(f"cache directory {foreign}: {user.home} belongs to uid 65534")
