"""Who serves which mount: a file for each daemon, locked by it for as long as it lives.

The lock, not the pid in the file, says whether the daemon is alive; the mount table says whether the mount is there.
Records of daemons that are gone with their mounts are removed by whoever lists next.
"""

import fcntl
import os
import re
import select
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from ocifs.errors import MountError, printable_path, raise_if_too_many_files
from ocifs.layer.profile import Profile
from ocifs.mount.mountinfo import Mount, mount_table

_PF_EXITING = 0x4
"""A flag of a task of the kernel's (linux/sched.h)."""

EngineName = Literal["erofs", "fuse"]
State = Literal["mounted", "dead", "elsewhere"]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What has been proven of a layer, and when; besides, each of its spans is proven whenever it is decoded."""

    blob: str
    """Its digest, proven when the layer was indexed."""
    diff_id: str
    """Likewise."""
    at: float | None
    """When that was: seconds since the epoch; None: a published index says so, and nothing has shown it yet."""
    spans: int
    """How many there are."""
    index: str | None = None
    """Format and digest of what its index comes from, if somebody else had published it when it was mounted."""


class MountRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a mount."""

    image: str
    """The reference as it was given."""
    digest: str
    """Of the image's manifest."""
    mountpoint: str
    engine: EngineName
    pid: int
    since: float
    """Seconds since the epoch."""
    reason: str | None = None
    """Why it is not the erofs engine, where that was tried."""
    log: str | None = None
    """Where the daemon writes what went wrong; None: to its terminal."""
    bundle: str | None = None
    """The directory of the bundle whose rootfs, or the lower layer of it, this is."""
    device: str | None = None
    """major:minor of the file system, which tells it from others on the same mountpoint; None: not known."""
    proven: tuple[Proof, ...] = ()
    """For each layer, the base first."""
    touched: Profile = {}
    """Of each lazy layer: what was wanted before the first quiet moment."""
    refuted: str | None = None
    """What was found to be a lie in a published index, so that nothing is read any more."""

    @property
    def is_proven(self) -> bool:
        """Whether all layers have been proven."""
        return self.refuted is None and all(proof.at is not None for proof in self.proven)

    def is_at(self, mount: Mount) -> bool:
        """Whether `mount` is this one, wherever it lies. A device alone may be another's by now."""
        return mount.digest == self.digest and self.device in {None, mount.device}


class ListedMount(MountRecord, frozen=True, kw_only=True):
    """A record with what has become of it."""

    state: State
    """`mounted`; `dead`: the mount is there, its daemon is not; `elsewhere`: in another mount namespace."""


def runtime_directory() -> Path:
    """Return this user's directory for records, made if it is missing. Raises MountError."""
    base = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else None)
    directory = Path(base, "ocifs") if base else Path(tempfile.gettempdir(), f"ocifs-{os.geteuid()}")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        raise MountError(f"{directory}: {error.strerror}: set XDG_RUNTIME_DIR to a directory of your own") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise MountError(f"{directory} is not a directory of your own: set XDG_RUNTIME_DIR to one")
    return directory


@contextmanager
def recorded(record: MountRecord) -> Iterator[Callable[[MountRecord], None]]:
    """Keep a record of this process's mount; give what replaces it. Both raise MountError if it cannot be written."""
    path = runtime_directory() / f"{record.pid}.json"
    temporary = path.with_suffix(".tmp")
    with ExitStack() as stack:

        def write(record: MountRecord) -> None:
            try:
                file = stack.enter_context(temporary.open("wb", buffering=0))
                stack.callback(temporary.unlink, missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(msgspec.json.encode(record))
                temporary.rename(path)
                stack.callback(_forget, path, record)
            except OSError as error:
                raise_if_too_many_files(error)
                raise MountError(f"cannot write {printable_path(str(path))}: {error.strerror}") from None

        write(record)
        yield write


def _forget(path: Path, record: MountRecord) -> None:
    """Remove a record, unless its mount is still there: then that is listed as dead."""
    if not any(mount.mountpoint == record.mountpoint and record.is_at(mount) for mount in mount_table()):
        path.unlink(missing_ok=True)


def list_mounts() -> list[ListedMount]:
    """Return the mounts of this user, and those in the mount table that nobody has a record of, oldest first."""
    others = [mount for mount in mount_table() if mount.digest is not None]
    listed = []
    for path in sorted(runtime_directory().glob("*.json")):
        record = _read(path)
        if record is None:
            continue
        mount = next((mount for mount in others if mount.mountpoint == record.mountpoint and record.is_at(mount)), None)
        alive = is_alive(record.pid) and not _is_dying(record.pid)
        if mount is not None:
            others.remove(mount)
        elif not alive:
            path.unlink(missing_ok=True)
            continue
        state: State = "elsewhere" if mount is None else "mounted" if alive else "dead"
        listed.append(ListedMount(**_fields(record), state=state))
    known = [mount for mount in listed if mount.device]
    listed += [_unrecorded(mount, next((each for each in known if each.is_at(mount)), None)) for mount in others]
    return sorted(listed, key=lambda mount: mount.since)


def _fields(record: MountRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in MountRecord.__struct_fields__}


def _unrecorded(mount: Mount, bound: ListedMount | None) -> ListedMount:
    """Return a mount that no daemon has recorded, perhaps because it is a recorded one that is bound there as well."""
    return ListedMount(
        image=bound.image if bound else "?",
        digest=mount.digest or "",
        mountpoint=mount.mountpoint,
        engine="erofs" if mount.fstype == "erofs" else "fuse",
        pid=0,
        since=bound.since if bound else 0.0,
        device=mount.device,
        state="dead" if bound and bound.state == "dead" else "mounted",
    )


def is_alive(pid: int) -> bool:
    """Whether the daemon that recorded itself as `pid` still runs."""
    try:
        with (runtime_directory() / f"{pid}.json").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is_dying(pid: int) -> bool:
    """Whether a process that still runs was killed: it has SIGKILL pending, or is exiting (proc(5))."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        stat_fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return True
    pending = [int(mask, 16) for mask in re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)", status, re.MULTILINE)]
    return bool(int(stat_fields[6]) & _PF_EXITING) or any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)


@contextmanager
def watched(pid: int) -> Iterator[Callable[[float], bool]]:
    """Give what waits until the process `pid` of now has ended, so many seconds at most, and returns whether it has.

    A lock is let go of before a process has closed all of its files; this is not (pidfd_open(2)).
    """
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it has ended
        yield lambda seconds: True
        return
    poll = select.poll()
    poll.register(process, select.POLLIN)
    try:
        yield lambda seconds: bool(poll.poll(seconds * 1000))
    finally:
        os.close(process)


def _read(path: Path) -> MountRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=MountRecord)
    except (OSError, msgspec.MsgspecError):
        return None
