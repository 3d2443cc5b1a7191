"""Mount an opened image from a program."""

import os
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from ocifs.errors import MountError
from ocifs.image.opening import Image
from ocifs.mount.job import Job
from ocifs.mount.lock import locked
from ocifs.mount.mountpoint import check_fuse, check_mountpoint, needed
from ocifs.mount.options import MountOptions
from ocifs.mount.record import LOG, runtime_directory
from ocifs.mount.unmount import unmount_image
from ocifs.service.client import Mounter


class Mount:
    """A mounted image. As a context manager it yields the mountpoint, and unmounts at the end."""

    def __init__(self, path: Path, engine: Literal["erofs", "fuse"], mounter: Mounter) -> None:
        self.path = path
        """The mountpoint, without symlinks."""
        self.engine = engine
        """What serves the mount."""
        self.mounted = True
        """Whether `unmount` has not been called yet."""
        self._mounter = mounter

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
        self._mounter.reap()


def mount_image(image: Image, mountpoint: str | os.PathLike[str], options: MountOptions | None = None) -> Mount:
    """Mount `image`; see `ocifs.api.image.Image.mount`. The log is in the runtime directory by default.

    The service of root mounts it, if that runs.
    """
    options = options or MountOptions()
    check_fuse()
    runtime = runtime_directory().path
    log = options.log or str(runtime / LOG)
    cache = image.options.store.directory
    keep_visible = needed(image.reference, cache, str(runtime), log)
    real = check_mountpoint(os.fspath(mountpoint), keep_visible, cache, replace=options.replace)
    job = Job.of(image, real, msgspec.structs.replace(options, log=log))
    with Mounter([]) as mounter:
        reply = mounter.mount(job)
    return Mount(Path(real), reply.engine, mounter)
