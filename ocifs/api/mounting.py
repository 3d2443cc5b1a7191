"""Mount an opened image from a program."""

import os
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from ocifs.errors import MountError
from ocifs.image.opening import Image
from ocifs.layer.span_cache import DEFAULT_CAPACITY
from ocifs.mount.job import Job
from ocifs.mount.job import mount as mount_by
from ocifs.mount.lock import locked
from ocifs.mount.mountpoint import check_fuse, check_mountpoint, needed
from ocifs.mount.process import Daemon
from ocifs.mount.record import LOG, runtime_directory
from ocifs.mount.unmount import unmount_image
from ocifs.store import default_directory


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to mount an image; the defaults are those of `ocifs mount`."""

    engine: Literal["auto", "erofs", "fuse"] = "auto"
    """What serves the mount: `erofs` needs root and Linux 6.12; `auto` uses it if possible, else `fuse`."""
    span_cache: int = DEFAULT_CAPACITY
    """Most bytes of decoded spans in the daemon's memory."""
    read_timeout: float = 60.0
    """Seconds after which a read fails."""
    log: Path | None = None
    """Log file; None: `ocifs.log` in the runtime directory."""
    allow_other: bool = False
    """Whether other users may access the mount."""
    replace: bool = False
    """Whether to unmount what ocifs has mounted there first."""
    prefetch: bool = True
    """Whether to fetch the rest of a remote image in the background."""
    prefetch_rate: int | None = None
    """Limit for that in bytes per second; None: unlimited."""


class Mount:
    """A mounted image. As a context manager it yields the mountpoint, and unmounts at the end."""

    def __init__(self, path: Path, engine: Literal["erofs", "fuse"], daemon: Daemon) -> None:
        self.path = path
        """The mountpoint, without symlinks."""
        self.engine = engine
        """What serves the mount."""
        self.mounted = True
        """Whether `unmount` has not been called yet."""
        self._daemon = daemon

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unmount. If files are still open in the mount, it is detached, and ends once they are closed."""
        try:
            self.unmount()
        except MountError:  # an exception's traceback, too, may keep a file open
            self.unmount(lazy=True)

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount, and wait for the daemon; with `lazy`, detach a busy mount and do not wait. Later calls do nothing.

        Raises:
            MountError: It is busy, or something else has unmounted it.
        """
        if not self.mounted:
            return
        real = str(self.path)
        with locked(real):
            unmount_image(real, lazy=lazy)
        self.mounted = False
        self._daemon.reap()


def mount_image(image: Image, mountpoint: str | os.PathLike[str], options: MountOptions | None = None) -> Mount:
    """Mount `image`; see `ocifs.api.image.Image.mount`."""
    options = options or MountOptions()
    check_fuse()
    runtime = runtime_directory().path
    log = options.log or runtime / LOG
    cache = str(image.options.store.directory or default_directory())
    keep_visible = needed(image.reference, cache, str(runtime), log)
    real = check_mountpoint(os.fspath(mountpoint), cache, keep_visible, replace=options.replace)
    job = msgspec.structs.replace(
        Job.of(image, real, options.engine, options.span_cache, options.read_timeout, log),
        allow_other=options.allow_other,
        replace=options.replace,
        prefetch=options.prefetch,
        prefetch_rate=options.prefetch_rate,
    )
    with Daemon() as daemon:
        reply = mount_by(daemon, job)
    return Mount(Path(real), reply.engine, daemon)
