"""The directories of ordinary snapshots, as those of containerd's overlayfs snapshotter.

    snapshots/ID/fs       the files of the snapshot; an upper directory of overlayfs
    snapshots/ID/work     scratch space of overlayfs, beside an active snapshot

A directory is made in the transaction that adds its snapshot, and removed after the one that removes it. So a directory
without a snapshot is left over from a removal, or from an addition that was not committed. But one with files and an ID
that the database has never assigned belongs to a later database, and is set aside.
"""

import contextlib
import errno
import logging
import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from ocifs.errors import MountError, StoreError, printable_path
from ocifs.mount.overlay import remove_tree
from ocifs.snapshotter.database import SNAPSHOTS, StepHook
from ocifs.snapshotter.metadata import Metadata
from ocifs.snapshotter.status import SnapshotError, Status
from ocifs.trusted_directory import TrustedDirectory

_MODE: Final = 0o755
_log = logging.getLogger(__name__)


class Owner(NamedTuple):
    """Owner and mode of the root directory of a snapshot."""

    uid: int = 0
    gid: int = 0
    mode: int = _MODE


class SnapshotDirectories:
    """The directories below `snapshots`."""

    def __init__(self, root: TrustedDirectory, step: StepHook = lambda name: None) -> None:
        self._directory = root.directory(SNAPSHOTS, make=True)
        self._step = step

    def files(self, snapshot: int) -> Path:
        """Return the directory with the files of a snapshot."""
        return self._directory.path / str(snapshot) / "fs"

    def work(self, snapshot: int) -> Path:
        """Return the scratch directory of an active snapshot."""
        return self._directory.path / str(snapshot) / "work"

    def make(self, snapshot: int, owner: Owner, *, active: bool) -> None:
        """Make the directory of a new snapshot.

        Raises:
            SnapshotError: The disk is full, or a directory is left over that has files.
        """
        name = str(snapshot)
        try:
            self._step("make directory")
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self._directory.fd)
            parent = self._directory.directory(name)
            if os.listdir(parent.fd):  # of an addition that was interrupted
                self._remove_empty(name)
                os.mkdir(name, 0o700, dir_fd=self._directory.fd)
                parent = self._directory.directory(name)
            self._step("make fs")
            os.mkdir("fs", 0o700, dir_fd=parent.fd)
            if active:
                self._step("make work")
                os.mkdir("work", 0o711, dir_fd=parent.fd)
            self._step("chown")
            os.chown("fs", owner.uid, owner.gid, dir_fd=parent.fd, follow_symlinks=False)
            self._step("chmod")
            os.chmod("fs", owner.mode, dir_fd=parent.fd)  # after chown, which clears bits
        except OSError as error:
            status: Status = "RESOURCE_EXHAUSTED" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "INTERNAL"
            shown = printable_path(str(self._directory.path / name))
            raise SnapshotError(status, f"cannot make the snapshot directory {shown}: {error.strerror}") from None

    def owner(self, snapshot: int) -> Owner:
        """Return the owner of the root directory of a snapshot. Raises SnapshotError."""
        return owner_of(self.files(snapshot))

    def sweep(self, metadata: Metadata) -> None:
        """Remove the directories of removed snapshots. Failures are logged, and the next sweep tries again.

        One that an addition has left behind stays: its ID will be given again, perhaps while this removes files.
        """
        with metadata.exclusive():  # no addition is under way
            ids, greatest = metadata.ids()
            unused = [name for name in self._numbered() if int(name) <= greatest and int(name) not in ids]
        for name in unused:
            try:
                self._step("remove files")
                remove_tree(self._directory, name)
            except MountError as error:
                _log.warning("%s", error)

    def check(self, metadata: Metadata) -> None:
        """Set aside directories that the database never knew, before the first request: it may be an old copy.

        A directory whose ID is greater than any that the database has assigned is removed if it is empty, as after an
        interrupted addition. Otherwise it becomes `kept-ID`, which nothing removes.

        Raises:
            StoreError: The snapshots cannot be listed, or renamed.
        """
        _, greatest = metadata.ids()
        shown = printable_path(str(self._directory.path))
        try:
            for name in [name for name in self._numbered() if int(name) > greatest]:
                if self._remove_empty(name):
                    continue
                kept = f"kept-{name}-{os.urandom(4).hex()}"
                self._step("set aside")
                self._directory.rename(name, kept)
                _log.warning("%s: the database does not know the snapshot %s: set aside as %s", shown, name, kept)
        except OSError as error:
            raise StoreError(f"cannot set aside unknown snapshots in {shown}: {error.strerror}") from None

    def _numbered(self) -> list[str]:
        return [name for name in os.listdir(self._directory.fd) if name.isdecimal()]

    def _remove_empty(self, name: str) -> bool:
        """Remove the directory of a snapshot unless it has files; return whether it had none."""
        directory = self._directory.directory(name)
        for below in ("fs", "work"):
            self._step(f"remove empty {below}")
            try:
                os.rmdir(below, dir_fd=directory.fd)
            except FileNotFoundError:
                continue
            except OSError:
                return False
        self._step("remove empty directory")
        os.rmdir(name, dir_fd=self._directory.fd)
        return True


def owner_of(path: Path) -> Owner:
    """Return owner and mode of a directory. Raises SnapshotError."""
    try:
        status = path.stat()
    except OSError as error:
        raise SnapshotError("UNAVAILABLE", f"{printable_path(str(path))}: {error.strerror}") from None
    return Owner(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def disk_usage(path: Path) -> tuple[int, int]:
    """Return the bytes on disk and the inodes of a directory and everything in it, each inode once.

    Skip files that disappear meanwhile. Follow no symlink.
    """
    seen: set[tuple[int, int]] = set()
    size = 0
    pending = [os.fsencode(path)]
    while pending:
        current = pending.pop()
        try:
            status = os.lstat(current)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                size += status.st_blocks * 512
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(current) as entries:
                    pending += [entry.path for entry in entries]
        except OSError:
            continue
    return size, len(seen)
