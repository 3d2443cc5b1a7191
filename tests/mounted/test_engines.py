"""Which engine mounts: erofs where it can be, else fuse, and then it is said why."""

import errno
import json
import os
import select
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.command import Ocifs

_NOT_ROOT = "only root on the host can, with CAP_SYS_ADMIN"
_FSOPEN, _FSCONFIG, _MOVE_MOUNT = 430, 431, 429

_REFUSE = """
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
load = struct.pack("<HBBI", 0x20, 0, 0, 0)  # the number of the system call
is_it = struct.pack("<HBBI", 0x15, 0, 1, int(sys.argv[1]))
refuse = struct.pack("<HBBI", 0x06, 0, 0, 0x50000 | int(sys.argv[2]))  # SECCOMP_RET_ERRNO
allow = struct.pack("<HBBI", 0x06, 0, 0, 0x7fff0000)  # SECCOMP_RET_ALLOW
code = ctypes.create_string_buffer(load + is_it + refuse + allow)
program = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(code)))
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execvp(sys.argv[3], sys.argv[3:])
"""


def refused(call: int, error: int) -> tuple[str, ...]:
    """Return what runs a command for which a system call fails: seccomp(2)."""
    return (sys.executable, "-c", _REFUSE, str(call), str(error))


pytestmark = pytest.mark.parametrize("engine", ["erofs"], indirect=True)
"""There is nothing to choose where it cannot be."""


@pytest.fixture
def auto(ocifs: Ocifs, root: None) -> Ocifs:
    """The command as root runs it who does not name an engine."""
    return replace(ocifs, environment={})


@pytest.fixture
def by_erofs(auto: Ocifs) -> Ocifs:
    return replace(auto, environment={"OCIFS_ENGINE": "erofs"})


def engine_of(ocifs: Ocifs, mountpoint: Path) -> tuple[str, str | None]:
    listed = json.loads(ocifs.output("mounts", "--json"))
    (found,) = ((mount["engine"], mount["reason"]) for mount in listed if mount["mountpoint"] == str(mountpoint))
    return found


def test_root_gets_erofs(auto: Ocifs, small: Path) -> None:
    mountpoint = auto.mountpoint()
    assert auto.run("mount", "-v", small, mountpoint) == (0, b"", "ocifs: mounted by the erofs engine\n")
    assert engine_of(auto, mountpoint) == ("erofs", None)
    auto.output("umount", mountpoint)


def test_who_asks_for_fuse_gets_it_without_a_reason(auto: Ocifs, small: Path) -> None:
    mountpoint = auto.mountpoint()
    assert auto.run("mount", "-v", "--engine", "fuse", small, mountpoint).err == "ocifs: mounted by the fuse engine\n"
    assert engine_of(auto, mountpoint) == ("fuse", None)
    auto.output("umount", mountpoint)


_REFUSALS = {
    "no EROFS in the kernel": (_FSOPEN, errno.ENODEV, "this kernel has no EROFS"),
    "no such system call": (_FSOPEN, errno.ENOSYS, "this kernel, or a seccomp filter, has no fsopen(2)"),
    "not allowed": (_FSOPEN, errno.EPERM, _NOT_ROOT),
    "block devices": (
        _FSCONFIG,
        errno.ENOTBLK,
        "this kernel mounts EROFS only from block devices (files need Linux 6.12)",
    ),
    "in the end": (_MOVE_MOUNT, errno.EINVAL, os.strerror(errno.EINVAL)),
}
"""(system call, how it fails, the reason)."""


@pytest.mark.parametrize("refusal", _REFUSALS)
def test_where_the_kernel_refuses_it_is_fuse_with_the_reason(auto: Ocifs, small: Path, refusal: str) -> None:
    call, error, reason = _REFUSALS[refusal]
    there = replace(auto, become=refused(call, error))
    mountpoint = auto.mountpoint()
    why = f"cannot mount EROFS: {reason}"
    assert there.complaint(7, "mount", "--engine", "erofs", small, mountpoint) == f"{why}: use --engine fuse instead"
    mounted = there.run("mount", "--verbose", small, mountpoint)
    assert mounted == (0, b"", f"ocifs: mounted by the fuse engine: {why}\n")
    assert (mountpoint / "hello").read_text() == "hello\n"
    assert engine_of(auto, mountpoint) == ("fuse", why)
    assert f"fuse ({why})\n" in auto.output("mounts")
    auto.output("umount", mountpoint)


@pytest.mark.parametrize(
    "become",
    [("setpriv", "--bounding-set=-sys_admin"), ("unshare", "--user", "--map-root-user")],
    ids=["without the capability", "in a user namespace"],
)
def test_root_who_may_not_mount_is_told_so(auto: Ocifs, small: Path, become: tuple[str, ...]) -> None:
    there = replace(auto, become=become)
    mountpoint = auto.mountpoint()
    assert _NOT_ROOT in there.complaint(7, "mount", "--engine", "erofs", small, mountpoint)
    assert str(mountpoint) in there.complaint(7, "mount", small, mountpoint)


def test_a_user_namespace_with_mounts_of_its_own_gets_fuse(auto: Ocifs, small: Path) -> None:
    """There EROFS is refused only when the served file is ready."""
    mountpoint = auto.mountpoint()
    mount, umount = (shlex.join(auto.command(*verb, mountpoint)) for verb in (("mount", "-v", small), ("umount",)))
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"{mount} && ls {mountpoint} && {umount}"],
        env=auto.variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "dir\nhello\n"), ran
    assert ran.stderr == f"ocifs: mounted by the fuse engine: cannot mount EROFS: {_NOT_ROOT}\n"


@contextmanager
def mounts_seen() -> Iterator[set[str]]:
    """Collect the mounts that appear, looking whenever the table changes (proc(5), mountinfo)."""
    seen: set[str] = set()
    stop, stopping = os.pipe()
    with Path("/proc/self/mountinfo").open() as table:
        before = set(table)
        poll = select.poll()
        poll.register(table, select.POLLPRI)
        poll.register(stop, select.POLLHUP)

        def watch() -> None:
            stopped = False
            while not stopped:
                stopped = any(fd == stop for fd, _ in poll.poll())
                table.seek(0)
                seen.update(set(table) - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield seen
        finally:
            os.close(stopping)
            watcher.join()
            os.close(stop)


def test_no_process_sees_the_served_file(by_erofs: Ocifs, small: Path) -> None:
    """Neither where it is mounted nor by a loop device; of all that is done only the EROFS mount appears."""
    with mounts_seen() as seen, by_erofs.mounted(small) as mountpoint:
        assert (mountpoint / "hello").read_text() == "hello\n"
        (daemon,) = by_erofs.processes()
        assert " - fuse ocifs " not in Path(f"/proc/{daemon}/mountinfo").read_text()
        backing_files = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
        assert not any("ocifs:" in path for path in backing_files)
    ours = [line for line in seen if str(by_erofs.home) in line or " - fuse ocifs " in line]
    assert {line.split()[4] for line in ours} == {str(mountpoint)}
    assert all(" - erofs ocifs:sha256:" in line for line in ours)
    assert by_erofs.leftovers() == []
    assert sorted(path.name for path in by_erofs.runtime.rglob("*")) == ["mountpoints.lock", "ocifs", "ocifs.log"]
