"""Who serves which mount: a file for each daemon, locked by it for as long as it lives.

The lock, not the pid in the file, says whether the daemon is alive; the mount table says whether the mount is there.
Records of daemons that are gone with their mounts are removed by whoever lists next.
"""

import errno
import fcntl
import json
import os
import re
import select
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ocifs.errors import MountError, printable_path, raise_if_too_many_files
from ocifs.layer.profile import Profile
from ocifs.mount.mountinfo import MountEntry, mount_table
from ocifs.trusted_directory import ForeignOwnerError, TrustedDirectory

_PF_EXITING = 0x4
"""A flag of a task of the kernel's (linux/sched.h)."""

_RECORD = re.compile(r"\d+\.json")
_RECORD_MAX = 16 << 20
LOG = "ocifs.log"
"""The default log, in the runtime directory."""

T = TypeVar("T")

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

    def is_at(self, mount: MountEntry) -> bool:
        """Whether `mount` is this one, wherever it lies. A device alone may be another's by now."""
        return mount.digest == self.digest and self.device in {None, mount.device}


class ListedMount(MountRecord, frozen=True, kw_only=True):
    """A record with what has become of it."""

    state: State
    """`mounted`; `dead`: the mount is there, its daemon is not; `elsewhere`: in another mount namespace."""


def to_json(value: object) -> bytes:
    """Return a value for another process of ocifs; unlike JSON of msgspec's it may have paths that are not UTF-8."""
    return json.dumps(msgspec.to_builtins(value, str_keys=True)).encode()


def from_json(data: bytes, what: type[T]) -> T:
    """Return the value that `to_json` has written. Raises ValueError if it is none of that type."""
    return msgspec.convert(json.loads(data), type=what, str_keys=True)


def runtime_directory() -> TrustedDirectory:
    """Open this user's directory for records; create it if it is missing.

    XDG_RUNTIME_DIR is ignored if it belongs to another user, as it does under `sudo -E` and `su`.

    Raises:
        MountError: It cannot be created, or another user could change what is in it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    try:
        if base and (session := _own_directory(base)) is not None:
            return session.directory("ocifs", make=True)
        if os.geteuid() == 0:
            base, name = "/run", "ocifs"
        else:
            base, name = tempfile.gettempdir(), f"ocifs-{os.geteuid()}"
        return TrustedDirectory.open_shared(Path(base)).directory(name, make=True)
    except OSError as error:
        where = "" if error.errno == errno.EPERM else f"runtime directory in {printable_path(base or '')}: "
        raise MountError(f"{where}{error.strerror}: set XDG_RUNTIME_DIR to a directory of your own") from None


def _own_directory(path: str) -> TrustedDirectory | None:
    """Open a directory, unless it belongs to another user or can only be reached through what does."""
    try:
        directory = TrustedDirectory.open_shared(Path(path))
    except PermissionError as error:
        if isinstance(error, ForeignOwnerError) or error.errno == errno.EACCES:
            return None
        raise
    return directory if os.fstat(directory.fd).st_uid == os.geteuid() else None


@contextmanager
def recorded(record: MountRecord, directory: TrustedDirectory) -> Iterator[Callable[[MountRecord], None]]:
    """Keep a record of this process's mount in the runtime directory; yield a function that replaces the record.

    Raises:
        MountError: It cannot be written; the function that is yielded raises this, too.
    """
    name, temporary = f"{record.pid}.json", f"{record.pid}.tmp"
    with ExitStack() as stack:

        def write(record: MountRecord) -> None:
            try:
                fd = directory.open_file(temporary, os.O_WRONLY | os.O_CREAT)
                file = stack.enter_context(open(fd, "wb", buffering=0))
                stack.callback(directory.unlink, temporary)
                fcntl.flock(file, fcntl.LOCK_EX)
                file.truncate()
                file.write(to_json(record))
                directory.rename(temporary, name)
                stack.callback(_forget, directory, name, record)
            except OSError as error:
                raise_if_too_many_files(error)
                raise MountError(
                    f"cannot write {printable_path(str(directory.path / name))}: {error.strerror}"
                ) from None

        write(record)
        yield write


def _forget(directory: TrustedDirectory, name: str, record: MountRecord) -> None:
    """Remove a record, unless its mount is still there: then that is listed as dead."""
    try:
        is_left = any(mount.mountpoint == record.mountpoint and record.is_at(mount) for mount in mount_table())
    except OSError:  # too many open files
        is_left = False
    if not is_left:
        directory.unlink(name)


def list_mounts() -> list[ListedMount]:
    """Return the mounts of this user, and those in the mount table that nobody has a record of, oldest first."""
    others = [mount for mount in mount_table() if mount.digest is not None]
    listed = []
    directory = runtime_directory()
    names = [name for name, _ in directory.files() if _RECORD.fullmatch(name)]
    read = [(name, record) for name in names if (record := _read(directory, name))]
    # The newest first: it is what lies there, though an older daemon that hangs may have had the same device before.
    for name, record in sorted(read, key=lambda each: -each[1].since):
        mount = next((mount for mount in others if mount.mountpoint == record.mountpoint and record.is_at(mount)), None)
        alive = is_alive(record.pid, directory) and not _is_dying(record.pid)
        if mount is not None:
            others.remove(mount)
        elif not alive:
            directory.unlink(name)
            continue
        state: State = "elsewhere" if mount is None else "mounted" if alive else "dead"
        listed.append(ListedMount(**_fields(record), state=state))
    known = [mount for mount in listed if mount.device]
    listed += [_unrecorded(mount, next((each for each in known if each.is_at(mount)), None)) for mount in others]
    return sorted(listed, key=lambda mount: mount.since)


def _fields(record: MountRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in MountRecord.__struct_fields__}


def _unrecorded(mount: MountEntry, bound: ListedMount | None) -> ListedMount:
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


def is_alive(pid: int, directory: TrustedDirectory) -> bool:
    """Whether the daemon that recorded itself as `pid` in the runtime directory still runs."""
    try:
        with open(directory.open_file(f"{pid}.json", os.O_RDONLY), "rb") as file:
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


def _read(directory: TrustedDirectory, name: str) -> MountRecord | None:
    try:
        return from_json(directory.read_file(name, _RECORD_MAX), MountRecord)
    except (OSError, ValueError):
        return None
