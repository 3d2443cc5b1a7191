"""A mount from its beginning to each of its ends."""

import base64
import ctypes
import json
import os
import shlex
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.test_terminal import on_a_terminal

End = Callable[[Ocifs, Path], object]

one_engine = pytest.mark.parametrize("engine", ["fuse"], indirect=True)
"""For what is over when an engine begins."""


def listed(ocifs: Ocifs) -> list[dict[str, object]]:
    """Return the mounts of this test among all that are listed."""
    found: list[dict[str, object]] = json.loads(ocifs.output("mounts", "--json"))
    return [mount for mount in found if str(mount["mountpoint"]).startswith(f"{ocifs.home}/")]


def daemon_of(ocifs: Ocifs) -> int:
    (pid,) = (mount["pid"] for mount in listed(ocifs))
    assert isinstance(pid, int)
    return pid


_ENDS: dict[str, End] = {
    "ocifs umount": lambda ocifs, mountpoint: ocifs.output("umount", mountpoint),
    "ocifs umount of a relative path": lambda ocifs, mountpoint: ocifs.output("umount", mountpoint.name + "/."),
    "umount": lambda ocifs, mountpoint: subprocess.run(["umount", mountpoint], check=True),
    "fusermount3 -u": lambda ocifs, mountpoint: subprocess.run(["fusermount3", "-u", mountpoint], check=True),
    "SIGTERM": lambda ocifs, mountpoint: os.kill(daemon_of(ocifs), signal.SIGTERM),
    "SIGINT": lambda ocifs, mountpoint: os.kill(daemon_of(ocifs), signal.SIGINT),
}


@pytest.mark.parametrize("way", _ENDS)
def test_ends_the_mount_and_its_daemon(ocifs: Ocifs, small: Path, way: str) -> None:
    with ocifs.mounted(small) as mountpoint:
        assert (mountpoint / "hello").read_text() == "hello\n"
        _ENDS[way](ocifs, mountpoint)
        assert ocifs.leftovers() == []
        assert os.listdir(mountpoint) == []
    assert ocifs.log.read_text() == ""


@contextmanager
def holding(path: Path) -> Iterator[FileIO]:
    """Hold a file of a mount open. It was closed once before: the first close fails if the daemon is gone by then."""
    path.open("rb").close()
    with path.open("rb", buffering=0) as held:
        yield held


def test_sigterm_ends_a_mount_that_is_in_use_and_its_readers_are_told(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as mountpoint, holding(mountpoint / "dir/big") as held:
        end(daemon_of(ocifs))
        assert os.listdir(mountpoint) == []
        with pytest.raises(OSError, match=r"not connected|abort|Input/output"):
            held.read(1 << 20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_another_thread_gets_ends_it_too(ocifs: Ocifs, small: Path, number: signal.Signals) -> None:
    with ocifs.mounted(small) as mountpoint:
        (mountpoint / "dir/big").read_bytes()  # which takes threads
        daemon = daemon_of(ocifs)
        thread = next(int(name) for name in os.listdir(f"/proc/{daemon}/task") if int(name) != daemon)
        assert ctypes.CDLL(None).tgkill(daemon, thread, number) == 0
        assert ocifs.leftovers() == []
        assert os.listdir(mountpoint) == []


def test_mount_answers_when_it_returns_and_says_nothing(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.mountpoint()
    mount = shlex.join(ocifs.command("mount", small, mountpoint))
    script = f'said=$({mount} 2>&1); cat {mountpoint}/hello; echo "[$said]"'
    shell = subprocess.run(
        script, shell=True, env=ocifs.variables(), capture_output=True, text=True, timeout=60, check=False
    )
    assert shell.stdout == "hello\n[]\n"
    ocifs.output("umount", mountpoint)


def test_mounts_says_what_is_where(ocifs: Ocifs, small: Path, engine: str) -> None:
    assert listed(ocifs) == []
    with ocifs.mounted(f"{small}:latest") as mountpoint:
        (mount,) = listed(ocifs)
        assert (mount["image"], mount["mountpoint"], mount["state"]) == (f"{small}:latest", str(mountpoint), "mounted")
        assert [mount["pid"]] == ocifs.processes()
        assert (mount["engine"], mount["reason"]) == (engine, None)
        head, *rows = (line.split() for line in ocifs.output("mounts").splitlines())
        assert head == ["MOUNTPOINT", "IMAGE", "DIGEST", "PID", "STATE", "KIND", "ENGINE"]
        (row,) = (row for row in rows if row[0] == str(mountpoint))
        assert row[1:] == [f"{small}:latest", str(mount["digest"])[:19], str(mount["pid"]), "mounted", "mount", engine]
    assert str(mountpoint) not in ocifs.output("mounts")


def test_the_kernel_is_told_the_digest_and_the_safe_options(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        (digest,) = (mount["digest"] for mount in listed(ocifs))
        (line,) = (line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(mountpoint) in line)
    options, _, what = line.split(" ", 5)[5].partition(" - ")
    assert {"ro", "nosuid", "nodev"} <= set(options.split()[0].split(","))
    assert "allow_other" not in what
    assert str(digest) in what


def test_suid_and_dev_are_root_s_to_ask_for(ocifs: Ocifs, posix_image: Path, root: None) -> None:
    for options, missing in [(["--suid"], 4), (["--dev"], os.ST_NOSUID), (["--suid", "--dev", "--allow-other"], 0)]:
        with ocifs.mounted(posix_image, *options) as mountpoint:
            assert os.statvfs(mountpoint).f_flag & (os.ST_RDONLY | os.ST_NOSUID | 4) == os.ST_RDONLY | missing
            if "--dev" in options:
                assert (mountpoint / "null").read_bytes() == b""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_foreground_serves_until_a_signal(ocifs: Ocifs, small: Path, stop: signal.Signals) -> None:
    mountpoint = ocifs.mountpoint()
    process = ocifs.start("mount", "--foreground", small, mountpoint)
    assert process.stderr is not None
    assert process.stderr.readline() == b"%b: mounted until interrupted\n" % bytes(mountpoint)
    assert (mountpoint / "hello").read_text() == "hello\n"
    process.send_signal(stop)
    assert process.communicate(timeout=10) == (b"", b"")
    assert process.returncode == 0
    assert ocifs.leftovers() == []


def test_foreground_ends_when_unmounted(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.mountpoint()
    process = ocifs.start("mount", "-f", small, mountpoint)
    assert process.stderr is not None
    process.stderr.readline()
    ocifs.output("umount", mountpoint)
    assert process.communicate(timeout=10) == (b"", b"")
    assert process.returncode == 0


def test_a_terminal_that_hangs_up_does_not_matter(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        os.kill(daemon_of(ocifs), signal.SIGHUP)
        assert (mountpoint / "hello").read_text() == "hello\n"


def test_a_busy_mount_says_who_uses_it_and_lazy_takes_it_away(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        with holding(mountpoint / "dir/big") as held:
            result = ocifs.run("umount", mountpoint)
            assert result.code == 7
            assert f"({os.getpid()})" in result.err
            assert "--lazy" in result.err
            ocifs.output("umount", "--lazy", mountpoint)
            assert os.listdir(mountpoint) == []
            assert len(held.read(1 << 20)) == 1 << 20  # an open file stays readable
        assert ocifs.leftovers() == []


def test_a_killed_daemon_leaves_a_dead_mount_that_umount_clears(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.mountpoint()
    ocifs.output("mount", small, mountpoint)
    end(daemon_of(ocifs), signal.SIGKILL)
    with pytest.raises(OSError, match=r"not connected|abort|Input/output"):
        (mountpoint / "dir/big").read_bytes()
    assert [mount["state"] for mount in listed(ocifs)] == ["dead"]
    again = ocifs.run("mount", small, mountpoint)
    way_out = f"clear it with `ocifs umount {mountpoint}`, or mount with --replace"
    assert again == (7, b"", f"ocifs: {mountpoint} is a dead mount: {way_out}\n")
    ocifs.output("umount", mountpoint)
    assert listed(ocifs) == []
    with ocifs.mounted(small, at=mountpoint):
        assert (mountpoint / "hello").read_text() == "hello\n"


def test_a_dead_mount_in_use_is_cleared(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.mountpoint()
    ocifs.output("mount", small, mountpoint)
    with holding(mountpoint / "hello"):
        end(daemon_of(ocifs), signal.SIGKILL)
        ocifs.output("umount", mountpoint)
        assert os.listdir(mountpoint) == []


def test_the_end_of_the_last_mount_namespace_that_has_it_ends_the_daemon(ocifs: Ocifs, small: Path, root: None) -> None:
    with ocifs.mounted(small) as mountpoint:
        with other_namespace(f"echo && read line && cat {mountpoint}/hello") as process:
            subprocess.run(["umount", mountpoint], check=True)
            assert ocifs.processes() != []
            assert process.communicate(b"\n", timeout=10)[0] == b"hello\n"
        assert ocifs.leftovers() == []


def test_the_end_of_the_mount_namespace_it_was_started_in_ends_the_daemon(
    ocifs: Ocifs, small: Path, root: None
) -> None:
    mountpoint = ocifs.mountpoint()
    mount = shlex.join(ocifs.command("mount", small, mountpoint))
    with other_namespace(f"{mount} && cat {mountpoint}/hello", ocifs.variables()) as process:
        assert process.wait(timeout=20) == 0
    assert ocifs.leftovers() == []


def test_sigterm_unmounts_in_the_namespace_that_the_daemon_has_left(ocifs: Ocifs, small: Path, root: None) -> None:
    mountpoint = ocifs.mountpoint()
    mount = shlex.join(ocifs.command("mount", small, mountpoint))
    script = f"{mount} && echo && read line && ! mountpoint -q {mountpoint}"
    with other_namespace(script, ocifs.variables()) as process:
        end(daemon_of(ocifs))
        process.communicate(b"\n", timeout=10)
        assert process.returncode == 0


def test_an_old_daemon_leaves_a_newer_mount_on_its_path_alone(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.mountpoint()
    ocifs.output("mount", small, mountpoint)
    old = daemon_of(ocifs)
    with holding(mountpoint / "hello"):
        ocifs.output("umount", "--lazy", mountpoint)
        ocifs.output("mount", small, mountpoint)
        end(old)
        assert (mountpoint / "hello").read_bytes() == b"hello\n"
    ocifs.output("umount", mountpoint)


def end(pid: int, by: signal.Signals = signal.SIGTERM) -> None:
    """End a process, and wait until it is gone."""
    os.kill(pid, by)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.02)


def test_a_mount_in_another_namespace_is_listed_as_elsewhere(ocifs: Ocifs, small: Path, root: None) -> None:
    mountpoint = ocifs.mountpoint()
    mount = shlex.join(ocifs.command("mount", small, mountpoint))
    script = f"{mount} && echo && read line && umount {mountpoint}"
    with other_namespace(script, ocifs.variables()) as process:
        assert [mount["state"] for mount in listed(ocifs)] == ["elsewhere"]
        process.communicate(b"\n", timeout=10)


def test_a_runtime_directory_that_only_its_namespace_has_is_used(ocifs: Ocifs, small: Path, root: None) -> None:
    """The daemon leaves the namespace, but not before it has opened what it writes."""
    mountpoint = ocifs.mountpoint()
    ocifs.output("index", small)
    private = shlex.join(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", str(ocifs.runtime)])
    commands = [shlex.join(ocifs.command(*words)) for words in (("mount", small, mountpoint), ("mounts", "--json"))]
    script = f"echo && {private} && {commands[0]} && {commands[1]} && echo && read line; umount {mountpoint}"
    with other_namespace(script, ocifs.variables()) as process:
        assert process.stdout is not None
        shown = b"".join(iter(process.stdout.readline, b"\n"))
        (mount,) = (each for each in json.loads(shown) if each["mountpoint"] == str(mountpoint))
        assert (mount["state"], mount["log"]) == ("mounted", str(ocifs.log))
        assert list(ocifs.runtime.iterdir()) == []
        assert mount["pid"] in ocifs.processes()
        process.communicate(b"\n", timeout=10)
    assert ocifs.leftovers() == []


@contextmanager
def other_namespace(script: str, variables: dict[str, str] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a script in a mount namespace of its own, once it has written its first line."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


@contextmanager
def renamed_into(directory: Path) -> Iterator[Callable[[], list[str]]]:
    """Yield a function that returns the names that files in `directory` got since (inotify(7), IN_MOVED_TO)."""
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(watcher, bytes(directory), 0x80) > 0

    def names() -> list[str]:
        events, found = os.read(watcher, 1 << 16), []
        while events:
            *_, length = struct.unpack_from("iIII", events)
            found.append(events[16 : 16 + length].rstrip(b"\0").decode())
            events = events[16 + length :]
        return found

    try:
        yield names
    finally:
        os.close(watcher)


def test_two_mounts_of_one_image_are_apart(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as one, ocifs.mounted(small) as other:
        assert len(listed(ocifs)) == 2
        ocifs.output("umount", one)
        assert (other / "hello").read_text() == "hello\n"


def test_umount_takes_several(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as one, ocifs.mounted(small) as other:
        ocifs.output("umount", one, other)
        assert ocifs.leftovers() == []


def test_umount_goes_on_after_a_failure(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as one, ocifs.mounted(small) as other:
        result = ocifs.run("umount", ocifs.home / "none", one, ocifs.home / "none", other)
        assert (result.code, result.err.count("is not an ocifs mount")) == (7, 2)
        assert ocifs.leftovers() == []


def test_umount_all_ends_the_mounts_of_this_runtime_directory(ocifs: Ocifs, small: Path, tmp_path: Path) -> None:
    elsewhere = replace(ocifs, home=tmp_path)
    elsewhere.runtime.mkdir(mode=0o700)
    with ocifs.mounted(small) as one, ocifs.mounted(small) as other, elsewhere.mounted(small) as kept:
        with (other / "dir/big").open("rb"):
            result = ocifs.run("umount", "--all")
            assert (result.code, f"{other} is in use" in result.err, result.err.count("\n")) == (7, True, 1)
            assert os.listdir(one) == []
        ocifs.output("umount", "-a")
        assert os.listdir(other) == []
        assert (kept / "hello").read_text() == "hello\n"
        assert ocifs.run("umount", "--all") == (0, b"", "")


def test_umount_from_inside_says_to_leave(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        variables = ocifs.variables(PYTHONSAFEPATH="1")
        for place, words, says in (
            (mountpoint / "dir", [str(mountpoint)], "the current directory is in it: leave the directory (cd "),
            (mountpoint, ["."], f"leave the directory (cd {mountpoint.parent}), or detach it now with --lazy"),
            (mountpoint / "dir", ["."], f"is inside the mount on {mountpoint}: leave the directory, then unmount "),
        ):
            ran = subprocess.run(
                ocifs.command("umount", *words), cwd=place, env=variables, capture_output=True, text=True, check=False
            )
            assert (ran.returncode, says in ran.stderr) == (7, True), ran.stderr
            assert "python" not in ran.stderr  # neither itself nor what started it
        holder = subprocess.Popen(["sleep", "60"], cwd=mountpoint)
        ran = subprocess.run(
            ocifs.command("umount", "."), cwd=mountpoint, env=variables, capture_output=True, text=True, check=False
        )
        assert f"and end sleep ({holder.pid})" in ran.stderr
        holder.kill()
        holder.wait()


def test_mounts_fits_the_terminal(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.home / ("long" * 15) / "end"
    mountpoint.mkdir(parents=True)
    with ocifs.mounted(small, at=mountpoint):
        shown = on_a_terminal(ocifs, "mounts", columns=90).splitlines()
        assert all(len(line) <= 90 for line in shown)
        (row,) = (line for line in shown if line.split()[0].endswith("longlong/end"))
        assert "…" in row
        assert str(mountpoint) in ocifs.output("mounts")


def test_a_mountpoint_is_shown_as_it_is_named(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.home / "with space\\and\tmore é"
    mountpoint.mkdir()
    with ocifs.mounted(small, at=mountpoint):
        assert [mount["mountpoint"] for mount in listed(ocifs)] == [str(mountpoint)]
        ocifs.output("umount", mountpoint)
        assert os.listdir(mountpoint) == []


def test_a_name_may_be_of_any_bytes(ocifs: Ocifs, small: Path) -> None:
    mountpoint = os.fsencode(ocifs.home) + b"/\xff\x1b[31m\r"
    os.mkdir(mountpoint)
    with ocifs.mounted(small, "--log", f"{ocifs.home}/\udcfe", at=Path(os.fsdecode(mountpoint))):
        (mount,) = listed(ocifs)
        assert mount["mountpoint"] == f"{ocifs.home}/\\xff\x1b[31m\r"
        assert mount["log"] == f"{ocifs.home}/\\xfe"
        assert base64.b64decode(str(mount["mountpoint_base64"])) == mountpoint
        assert f"\n{ocifs.home}/\\xff\\x1b[31m\\r  " in ocifs.output("mounts")
        ocifs.output("umount", Path(os.fsdecode(mountpoint)))
        assert os.listdir(mountpoint) == []


def test_a_symlink_to_a_directory_is_mounted_on_and_unmounted(ocifs: Ocifs, small: Path) -> None:
    mountpoint, link = ocifs.mountpoint(), ocifs.home / "link"
    link.symlink_to(mountpoint)
    ocifs.output("mount", small, link)
    assert (mountpoint / "hello").read_text() == "hello\n"
    ocifs.output("umount", link)


@one_engine
def test_a_warm_mount_builds_nothing(ocifs: Ocifs, small: Path) -> None:
    ocifs.output("index", small)
    with renamed_into(ocifs.cache / "entries") as finished, ocifs.mounted(small), pytest.raises(BlockingIOError):
        finished()
