"""The records of mounts: one file for each daemon, locked by the daemon for as long as it lives.

The lock, not the pid in the file, says whether the daemon is alive; the mount table says whether the mount exists. The
next listing removes records whose daemon and mount are both gone.
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

from ocifs.errors import MountError, printable_path, raise_if_short
from ocifs.mount.counters import DEAD, Counters, Numbers
from ocifs.mount.mountinfo import MountEntry, mount_table
from ocifs.process import stat_of, status_of
from ocifs.trusted_directory import ForeignOwnerError, TrustedDirectory

_PF_EXITING = 0x4
"""A flag of a task in the kernel (linux/sched.h)."""

_RECORD = re.compile(r"\d+\.json")
_RECORD_MAX = 16 << 20
LOG = "ocifs.log"
"""The default log file, in the runtime directory."""

T = TypeVar("T")

EngineName = Literal["erofs", "fuse"]
State = Literal["mounted", "dead", "elsewhere", "restarting"]

SYSTEM_DIRECTORY = "/run/ocifs"
"""The runtime directory of root's service, unless XDG_RUNTIME_DIR names another."""
SOCKET = "service.sock"
"""Name of the service's socket in the runtime directory."""
KEEPER_NAME = "ocifs-keeper"
"""Name of the process of a keeper (`comm` in proc(5))."""


class MountedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """What is verified of a layer. Besides, each span is verified whenever it is decoded."""

    blob: str
    """Digest of the blob."""
    diff_id: str
    """Diff ID of the layer."""
    verified_at: float | None
    """When both digests were verified, in seconds since the epoch; None: not yet, a published index states them."""
    spans: int
    """Number of spans."""
    index: str | None = None
    """Format and digest of the published index that was used when it was mounted, if any."""


class KeptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a keeper adds: it replaces the process that serves the mount if that dies."""

    keeper: int
    """PID of the keeper."""
    counters: str
    """File in the runtime directory with the counters, which outlive each process."""
    state: int
    """Descriptor, in the process that serves the mount, of the file from which the next keeper takes it over."""
    began: float
    """When this process took over, in seconds since the epoch."""
    dormant: bool = False
    """Whether it waits for a request of the kernel, and loads the image only then."""


class PackRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The hot pack that the first reads of a mount were saved in."""

    kind: str = ""
    """Kind and version of the cache entry: `ppack1` for layers that were not verified."""
    subject: str = ""
    """The digest that names the entry."""
    size: int = 0
    """Decoded bytes in the pack; 0: it was not saved."""
    added: int = 0
    """How many of them are new."""


class MountRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a mount."""

    image: str
    """The reference on the command line."""
    digest: str
    """Digest of the image's manifest."""
    mountpoint: str
    engine: EngineName
    pid: int
    since: float
    """Seconds since the epoch."""
    reason: str | None = None
    """Why the erofs engine could not mount, if it was tried."""
    log: str | None = None
    """File that the daemon logs to; None: its terminal."""
    bundle: str | None = None
    """Directory of the bundle that this mount is the rootfs, or its lower layer, of."""
    device: str | None = None
    """major:minor of the file system, unlike that of other mounts on the same mountpoint; None: unknown."""
    layers: tuple[MountedLayer, ...] = ()
    """One for each layer, the base first."""
    hot_pack: PackRecord | None = None
    """The hot pack that has the first reads, once they have paused; None: not saved yet, or too few were new."""
    kept: KeptRecord | None = None
    """The keeper's part; None: the mount ends with its daemon."""
    refuted: str | None = None
    """Why verification of a published index failed, which makes every read fail; None: it did not."""

    @property
    def began(self) -> float:
        """When its process began to serve it, in seconds since the epoch."""
        return self.since if self.kept is None else self.kept.began

    @property
    def is_verified(self) -> bool:
        """Whether all layers are verified."""
        return self.refuted is None and all(layer.verified_at is not None for layer in self.layers)

    def is_at(self, mount: MountEntry) -> bool:
        """Whether `mount` is this one, on any mountpoint. The device alone may have been reused."""
        return mount.digest == self.digest and self.device in {None, mount.device}


class ListedMount(MountRecord, frozen=True, kw_only=True):
    """A record with the state of its mount."""

    state: State
    """`mounted`; `dead`: the mount exists without a daemon; `elsewhere`: in another mount namespace; `restarting`: its
    keeper replaces its process."""
    numbers: Numbers | None = None
    """The counters of a mount with a keeper."""


def to_json(value: object) -> bytes:
    """Encode a value for another process of ocifs. Unlike JSON of msgspec, it may contain paths that are not UTF-8."""
    return json.dumps(msgspec.to_builtins(value, str_keys=True)).encode()


def from_json(data: bytes, what: type[T]) -> T:
    """Decode a value that `to_json` encoded. Raises ValueError if it has another type."""
    return msgspec.convert(json.loads(data), type=what, str_keys=True)


def runtime_directory() -> TrustedDirectory:
    """Open this user's runtime directory; create it if it is missing.

    XDG_RUNTIME_DIR is ignored if it belongs to another user, as it does under `sudo -E` and `su`.

    Raises:
        MountError: It cannot be created, or another user could change its contents.
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
        raise_if_short(error)
        where = "" if error.errno == errno.EPERM else f"runtime directory in {printable_path(base or '')}: "
        raise MountError(f"{where}{error.strerror}: set XDG_RUNTIME_DIR to a directory of your own") from None


def _directories() -> list[TrustedDirectory]:
    """Return the directories with records: this user's, and that of root without XDG_RUNTIME_DIR, as of its service."""
    own = runtime_directory()
    if os.geteuid() or str(own.path) == SYSTEM_DIRECTORY:
        return [own]
    try:
        return [own, TrustedDirectory.open(Path(SYSTEM_DIRECTORY))]
    except OSError:
        return [own]


def _own_directory(path: str) -> TrustedDirectory | None:
    """Open a directory; return None if another user owns it or one of its ancestors."""
    try:
        directory = TrustedDirectory.open_shared(Path(path))
    except PermissionError as error:
        if isinstance(error, ForeignOwnerError) or error.errno == errno.EACCES:
            return None
        raise
    return directory if os.fstat(directory.fd).st_uid == os.geteuid() else None


@contextmanager
def recorded(directory: TrustedDirectory) -> Iterator[Callable[[MountRecord], None]]:
    """Yield a function that writes or replaces the record of this process's mount; it raises MountError.

    At the end, remove the record, unless the mount still exists.
    """
    name, temporary = f"{os.getpid()}.json", f"{os.getpid()}.tmp"
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
                raise_if_short(error)
                raise MountError(
                    f"cannot write {printable_path(str(directory.path / name))}: {error.strerror}"
                ) from None

        yield write


def _forget(directory: TrustedDirectory, name: str, record: MountRecord) -> None:
    """Remove a record, unless its mount still exists: then that is listed as dead."""
    try:
        exists = any(mount.mountpoint == record.mountpoint and record.is_at(mount) for mount in mount_table())
    except OSError:  # too many open files
        exists = False
    if not exists:
        directory.unlink(name)


def list_mounts() -> list[ListedMount]:
    """Return the mounts of this user, including those in the mount table without a record, oldest first."""
    others = [mount for mount in mount_table() if mount.digest is not None]
    listed = []
    unused: list[tuple[TrustedDirectory, str]] = []
    taken_over: set[str] = set()
    read = [
        (directory, name, record)
        for directory in _directories()
        for name, _ in directory.files()
        if _RECORD.fullmatch(name) and (record := _read(directory, name))
    ]
    # The newest first, since an older daemon that hangs may have had the same device number before.
    for directory, name, record in sorted(read, key=lambda each: -each[2].began):
        mount = next((mount for mount in others if mount.mountpoint == record.mountpoint and record.is_at(mount)), None)
        alive = is_alive(record.pid, directory) and not _is_dying(record.pid)
        if mount is not None:
            others.remove(mount)
        elif alive and record.kept is not None and record.kept.counters in taken_over:
            continue  # another worker has just taken over
        elif not alive:
            directory.unlink(name)
            if record.kept is not None and not is_keeper(record.kept.keeper):
                unused.append((directory, record.kept.counters))
            continue
        if record.kept is not None:
            taken_over.add(record.kept.counters)
        counters = _counters(directory, record)
        state: State = "elsewhere" if mount is None else "mounted" if alive else _without_process(record, counters)
        listed.append(
            ListedMount(**_fields(record), state=state, numbers=None if counters is None else counters.read())
        )
    kept = {mount.kept.counters for mount in listed if mount.kept is not None}
    for directory, counters_file in unused:
        if counters_file not in kept:  # another worker may count on
            directory.unlink(counters_file)
    known = [mount for mount in listed if mount.device]
    listed += [_unrecorded(mount, next((each for each in known if each.is_at(mount)), None)) for mount in others]
    return sorted(listed, key=lambda mount: mount.since)


def _counters(directory: TrustedDirectory, record: MountRecord) -> Counters | None:
    if record.kept is None:
        return None
    try:
        fd = directory.open_file(record.kept.counters, os.O_RDWR)
    except (OSError, ValueError):
        return None
    try:
        return Counters.open(fd)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _without_process(record: MountRecord, counters: Counters | None) -> State:
    """Return the state of a mount whose process is gone."""
    if record.kept is None or counters is None or counters.state == DEAD or not is_keeper(record.kept.keeper):
        return "dead"
    return "restarting"


def is_keeper(pid: int) -> bool:
    """Whether a process is a keeper of mounts that still runs."""
    try:
        stat = stat_of(pid)
    except OSError:
        return False
    return stat.name == KEEPER_NAME and stat.state not in {"Z", "X"}


def read_record(directory: TrustedDirectory, pid: int) -> MountRecord | None:
    """Return the record that the process `pid` has written; None if there is none."""
    return _read(directory, f"{pid}.json")


def _fields(record: MountRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in MountRecord.__struct_fields__}


def _unrecorded(mount: MountEntry, bound: ListedMount | None) -> ListedMount:
    """Describe a mount without a record, which may be a bind mount of the recorded mount `bound`."""
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
    """Whether the daemon with the record `pid` in the runtime directory is still running."""
    try:
        with open(directory.open_file(f"{pid}.json", os.O_RDONLY), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is_dying(pid: int) -> bool:
    """Whether a process was killed but still exists: it has SIGKILL pending, or is exiting (proc(5))."""
    try:
        status, flags = status_of(pid), stat_of(pid).flags
    except OSError:
        return True
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return bool(flags & _PF_EXITING or pending >> (signal.SIGKILL - 1) & 1)


@contextmanager
def watch_exit(pid: int) -> Iterator[Callable[[float], bool]]:
    """Yield a `wait(timeout)` that returns True once the process has exited.

    A process releases its lock before it has closed all of its files; this waits for the exit (pidfd_open(2)).
    """
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it has exited
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
