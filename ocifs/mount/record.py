"""Who serves which mount: a file for each daemon, locked by it for as long as it lives.

The lock, not the pid in the file, says whether the daemon is alive; the mount table says whether the mount is there.
Records of daemons that are gone with their mounts are removed by whoever lists next.
"""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from ocifs.errors import MountError
from ocifs.mount.mountinfo import mount_table

EngineName = Literal["erofs", "fuse"]
State = Literal["mounted", "dead", "elsewhere"]


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
def recorded(record: MountRecord) -> Iterator[None]:
    """Keep a record of this process's mount."""
    path = runtime_directory() / f"{record.pid}.json"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(msgspec.json.encode(record))
        file.flush()
        temporary.rename(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def list_mounts() -> list[ListedMount]:
    """Return the mounts of this user, and those in the mount table that nobody has a record of, oldest first."""
    table = {mount.mountpoint: mount for mount in mount_table() if mount.digest is not None}
    listed = []
    for path in sorted(runtime_directory().glob("*.json")):
        record = _read(path)
        if record is None:
            continue
        mount = table.get(record.mountpoint)
        here = mount is not None and mount.digest == record.digest
        alive = is_alive(record.pid)
        if not alive and not here:
            path.unlink(missing_ok=True)
            continue
        if here:
            del table[record.mountpoint]
        state: State = "elsewhere" if not here else "mounted" if alive else "dead"
        listed.append(ListedMount(**msgspec.structs.asdict(record), state=state))
    listed += [
        ListedMount(
            image="?",
            digest=mount.digest or "",
            mountpoint=mount.mountpoint,
            engine="erofs" if mount.fstype == "erofs" else "fuse",
            pid=0,
            since=0.0,
            state="mounted",
        )
        for mount in table.values()
    ]
    return sorted(listed, key=lambda mount: mount.since)


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


def wait_for_end(pid: int, seconds: float) -> bool:
    """Wait until the daemon is gone, `seconds` at most; return whether it is."""
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _read(path: Path) -> MountRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=MountRecord)
    except (OSError, msgspec.MsgspecError):
        return None
