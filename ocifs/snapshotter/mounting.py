"""Mount for containers, by the service of ocifs or else by a daemon; try whether this machine can mount at all.

The probe mounts an empty image the same way. So it finds whatever a mount may lack: a file system of the kernel,
/dev/fuse, the extra `fuse`, a capability.
"""

import contextlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from ocifs.errors import OcifsError, missing_extra, printable_path, shortage
from ocifs.image.trees import Trees
from ocifs.mount.handoff import Handoff
from ocifs.mount.job import Job, MountReply
from ocifs.mount.mountinfo import mount_at, unmount
from ocifs.mount.record import LOG, runtime_directory
from ocifs.mount.unmount import unmount_image
from ocifs.service.client import Mounter
from ocifs.snapshotter.settings import SnapshotterSettings
from ocifs.spec.digest import Digest
from ocifs.store import Store

_NO_SERVICE: Final = "--no-service"
_PROBE: Final = "probe"
"""Name of the mountpoint of the empty image in the directory of the snapshotter."""
_PROBE_AGAIN: Final = 60.0
"""Seconds until a failed probe is repeated: the operator may have loaded a module or installed a package."""
_log = logging.getLogger(__name__)


class Mounting:
    """Makes the mounts of a snapshotter. Safe for several threads."""

    def __init__(self, settings: SnapshotterSettings, probe_again: float = _PROBE_AGAIN) -> None:
        """Repeat a failed probe after `probe_again` seconds."""
        self._settings = settings
        self._probe_again = probe_again
        log = settings.mounting.log or str(runtime_directory().path / LOG)
        self.options = replace(settings.mounting, log=log, suid=True, dev=True, allow_other=True)
        self._mounters: list[Mounter] = []
        self._probing = threading.RLock()
        self._problem: str | None = None
        self._probed = 0.0

    def mount(self, job: Job) -> MountReply:
        """Mount, and return how; without the service if that fails. Raises OcifsError."""
        if not self._settings.service:
            return self._mount_by(job, [_NO_SERVICE])
        try:
            return self._mount_by(job, [])
        except OcifsError as error:  # for example, the service has another version
            _log.warning("the service of ocifs does not mount %s: %s", printable_path(job.mountpoint), error)
        return self._mount_by(job, [_NO_SERVICE])

    def reap(self) -> None:
        """Let the system forget the daemons that have exited."""
        for mounter in [*self._mounters]:  # other threads add some meanwhile
            if mounter.reap():
                with contextlib.suppress(ValueError):  # so does another thread
                    self._mounters.remove(mounter)

    def probe(self) -> None:
        """Mount an empty image, unmount it, and log whether that works."""
        with self._probing:
            try:
                reply = self._mount_empty(self._settings.root / _PROBE)
            except (OcifsError, OSError, MemoryError, ImportError) as error:
                known = error if isinstance(error, OcifsError) else missing_extra(error) or shortage(error) or error
                self._problem = f"this node cannot mount images: {known}"
                _log.error("%s: containerd downloads and unpacks all images", self._problem)
            else:
                self._problem = None
                why = "" if reply.reason is None else f": {reply.reason}"
                _log.info("images are mounted by the %s engine%s", reply.engine, why)
            self._probed = time.monotonic()

    def problem(self) -> str | None:
        """Return why this machine cannot mount an image, according to the last probe; None: it can, or none was made.

        Waits for a probe that is being made, and repeats a failed one after a while.
        """
        with self._probing:
            if self._problem is not None and time.monotonic() >= self._probed + self._probe_again:
                self.probe()
            return self._problem

    def _mount_empty(self, path: Path) -> MountReply:
        """Mount an empty image on a new directory, and remove both. Raises OcifsError, OSError."""
        if mount_at(str(path)) is not None:  # an earlier process was killed here
            unmount(str(path), lazy=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        with contextlib.closing(Trees([], Store(None), _log.warning)) as trees:
            job = Job(
                image="an empty image",
                digest=str(Digest.of(b"")),
                mountpoint=str(path),
                rootfs=Handoff.of(trees.as_of(0)),
                options=self.options,
            )
            reply = self.mount(job)
        try:
            unmount_image(str(path), lazy=False)
        except OcifsError as error:
            _log.warning("%s", error)
            return reply
        self.reap()
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)
        return reply

    def _mount_by(self, job: Job, arguments: list[str]) -> MountReply:
        with Mounter(arguments) as mounter:
            reply = mounter.mount(job)
        self._mounters.append(mounter)
        return reply
