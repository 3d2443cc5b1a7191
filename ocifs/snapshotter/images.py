"""The merged mounts of images, one for each chain of layers that a container runs on.

    images/HEX            the mountpoint of a chain, named by its chain ID

An image is mounted during the pull or on demand, and unmounted when no snapshot has its chain, or after a time without
users. A dead mount is made again, and so is a refuted one that no container uses. Several requests for one chain share
a mount. The mounts outlive this process; the mount table says which exist. Mountpoints lie in a directory that only
root can enter, because the images' setuid files and device nodes have effect in them: containers get them through
overlays.
"""

import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from ocifs.errors import MountError, OcifsError, printable_path
from ocifs.image.opening import FoundImage, Image
from ocifs.layer.span_memory import trim_heap
from ocifs.mount.job import Job
from ocifs.mount.lock import locked
from ocifs.mount.mountinfo import mount_at, mount_table, unmount
from ocifs.mount.record import ListedMount, list_mounts
from ocifs.mount.unmount import unmount_image
from ocifs.snapshotter.database import StepHook
from ocifs.snapshotter.metadata import Metadata
from ocifs.snapshotter.mounting import Mounting
from ocifs.snapshotter.requested_image import by_digest, find_requested
from ocifs.snapshotter.settings import SnapshotterSettings
from ocifs.snapshotter.status import SnapshotError
from ocifs.sources.reference import Reference
from ocifs.sources.registry.access import Access
from ocifs.spec.digest import Digest
from ocifs.trusted_directory import TrustedDirectory

IMAGES: Final = "images"
_SHA256_HEX: Final = 64
_ABANDONED_SECONDS: Final = 120.0
"""Seconds after which a mount is unmounted whose pull has added no snapshot."""
_MOUNTING_SECONDS: Final = 900.0
"""Seconds that one request waits for a mount that another makes. It may have to index the layers first."""
_CLOSING_SECONDS: Final = 60.0
_SERVED: Final = ("mounted", "restarting")
"""States of a mount that is served."""
_log = logging.getLogger(__name__)


class Claim(NamedTuple):
    """The duty to mount or unmount a chain; others wait for `done`."""

    chain: str
    done: "Future[None]"


class Images:
    """The merged mounts below `images`."""

    def __init__(
        self,
        root: TrustedDirectory,
        settings: SnapshotterSettings,
        metadata: Metadata,
        access: Callable[[Reference], Access] | None = None,
        step: StepHook = lambda name: None,
    ) -> None:
        """Use the credentials that `access` returns for a reference, else those of the options."""
        self._directory = root.directory(IMAGES, make=True)
        self._remove_unused_mountpoints()
        self._settings = settings
        self._metadata = metadata
        self._access = access
        self._step = step
        self._lock = threading.Lock()
        self._claims: dict[str, Claim] = {}
        self._used: dict[str, float] = {}
        """When each chain was needed last, by the monotonic clock."""
        self._closed = False
        self.mounting = Mounting(settings)

    def mountpoint(self, chain: str) -> Path:
        """Return the mountpoint of a chain."""
        return self._directory.path / Digest(chain).hex

    def ensure(self, chain: str) -> Path:
        """Return the mountpoint of a chain once the image is mounted and served.

        Raises:
            SnapshotError: No source of the chain can be mounted, or its image is refuted and in use.
        """
        return self._ensure(chain, lambda: self._mount_any(chain))

    def mount(self, chain: str, found: FoundImage) -> None:
        """Mount a chain from an image that ends with it, unless it is mounted. Raises OcifsError."""
        self._ensure(chain, lambda: self._mount(chain, found))

    def refuted(self) -> dict[str, ListedMount]:
        """Return the mounts whose published index has turned out to be false, by chain."""
        found = {each.mountpoint: each for each in list_mounts() if each.refuted is not None and each.state in _SERVED}
        return {chain: found[path] for chain in self.mounted() if (path := str(self.mountpoint(chain))) in found}

    def is_intact(self, chain: str) -> bool:
        """Whether an image is mounted and served, and not refuted."""
        return self._look(chain) == (True, None)

    def can_be_mapped(self, chain: str) -> bool:
        """Whether containerd can map the owners in a mounted image to a user namespace (mount_setattr(2))."""
        mounted = mount_at(str(self.mountpoint(chain)))
        return mounted is not None and mounted.fstype == "erofs"

    def claim(self, chain: str) -> Claim | None:
        """Return the duty to mount or unmount a chain; None: another thread has it."""
        with self._lock:
            if chain in self._claims or self._closed:
                return None
            claim = self._claims[chain] = Claim(chain, Future())
        return claim

    def unmount_unused(self, *, idle: float | None = None) -> None:
        """Unmount the chains that no snapshot has, and those without a user for `idle` seconds, by default the setting.

        Raises:
            SnapshotError: The database cannot be read.
        """
        idle = self._settings.idle if idle is None else idle
        for chain in self.mounted():
            if self._is_unused(chain, idle) and (claim := self.claim(chain)) is not None:
                with self._doing(claim):
                    if self._is_unused(chain, idle):  # no snapshot was added meanwhile
                        self._unmount(chain)
        self._forget_times({*self.mounted(), *self._claims})
        self.mounting.reap()

    def forget(self, chain: str) -> None:
        """Let the next `unmount_unused` unmount a chain if it has no snapshots."""
        self._used[chain] = -_ABANDONED_SECONDS

    def close(self) -> None:
        """Wait for a minute until the mounts under way are made; make no more."""
        with self._lock:
            self._closed = True
            claims = [*self._claims.values()]
        _, late = wait([claim.done for claim in claims], _CLOSING_SECONDS)
        if late:
            _log.warning("%d mounts are not made after %g s", len(late), _CLOSING_SECONDS)

    def _remove_unused_mountpoints(self) -> None:
        """Remove the mountpoints whose process was killed before it mounted, or after it unmounted."""
        for name in os.listdir(self._directory.fd):
            with contextlib.suppress(OSError):  # EBUSY: something is mounted on it, perhaps dead
                os.rmdir(name, dir_fd=self._directory.fd)

    def _ensure(self, chain: str, mount: Callable[[], None]) -> Path:
        """Mount a chain with `mount` unless it is served; wait for another thread that does. Raises as `ensure`."""
        while not self._is_served(chain):
            self._used[chain] = time.monotonic()
            claim = self.claim(chain)
            if claim is None:
                if self._closed:
                    raise SnapshotError("UNAVAILABLE", "the snapshotter is shutting down: try again")
                self._wait(chain)
                continue
            with self._doing(claim):
                if not self._is_served(chain):
                    mount()
            break
        self._used[chain] = time.monotonic()
        return self.mountpoint(chain)

    def _is_served(self, chain: str) -> bool:
        """Whether an image is mounted and served. A refuted one without users does not count: it is mounted again.

        Raises:
            SnapshotError: The image is refuted and in use.
        """
        is_served, refuted = self._look(chain)
        if refuted is not None and chain in self._metadata.chains_in_use():
            raise SnapshotError(
                "FAILED_PRECONDITION",
                f"image {printable_path(refuted.image)} is refuted, so its containers fail: {refuted.refuted}: remove "
                "them and the image, and pull it again",
            )
        return is_served and refuted is None

    def _look(self, chain: str) -> tuple[bool, ListedMount | None]:
        """Return whether an image is mounted, and a process serves it or is being replaced; and its mount if refuted.

        Nothing is read from the mount: cached files of a dead one can still be read.
        """
        path = str(self.mountpoint(chain))
        mounted = mount_at(path)
        if mounted is None or mounted.digest is None:
            return False, None
        records = [each for each in list_mounts() if each.mountpoint == path and each.is_at(mounted)]
        if any(each.state == "dead" for each in records):
            return False, None
        return True, next((each for each in records if each.refuted is not None and each.state in _SERVED), None)

    def _forget_times(self, kept: Container[str]) -> None:
        """Forget when other chains were needed: another program has unmounted them, or they were never mounted."""
        for chain in [*self._used]:
            if chain not in kept:
                self._used.pop(chain, None)

    def _is_unused(self, chain: str, idle: float) -> bool:
        now = time.monotonic()
        if chain in self._metadata.chains_in_use():
            self._used[chain] = now
            return False
        unused = now - self._used.setdefault(chain, now)
        return 0 < idle <= unused if chain in self._metadata.chains() else unused >= _ABANDONED_SECONDS

    def _wait(self, chain: str) -> None:
        """Wait until the thread that has a chain is done, whether it succeeds or fails.

        Raises:
            SnapshotError: It takes too long.
        """
        with self._lock:
            claim = self._claims.get(chain)
        if claim is not None:
            try:
                claim.done.result(_MOUNTING_SECONDS)
            except TimeoutError:
                raise SnapshotError(
                    "UNAVAILABLE", f"the layers {chain} are not mounted after {_MOUNTING_SECONDS:g} s: try again"
                ) from None

    @contextlib.contextmanager
    def _doing(self, claim: Claim) -> Iterator[None]:
        try:
            yield
        finally:
            with self._lock:
                del self._claims[claim.chain]
            claim.done.set_result(None)

    def _mount_any(self, chain: str) -> None:
        """Mount a chain from the first of its sources that works. Raises SnapshotError."""
        reason = "no image is known for it: pull the image again"
        for source in self._metadata.sources(chain):
            reference = by_digest(source.repository, Digest(source.manifest), source.total - source.depth)
            try:
                with self._find(reference) as found:
                    self._mount(chain, found)
            except (OcifsError, OSError, MemoryError) as error:
                reason = str(error)
                _log.warning("cannot mount %s: %s", printable_path(reference.text), error)
            else:
                return
        raise SnapshotError("UNAVAILABLE", f"cannot mount the layers {chain}: {reason}")

    def _find(self, reference: Reference) -> FoundImage:
        """Find an image that was found before, without network if the cache has all of it. Raises OcifsError.

        Otherwise the registry is asked: if the image is gone there, another source of the chain may have it.
        """
        options = self._settings.options
        found = find_requested(reference, replace(options, prefer_kept=True), self._access)
        if not found.unindexed and all(found.source.is_cached(each.descriptor) for each in found.resolved.layers):
            return found
        with found:
            return find_requested(reference, options, self._access)

    def _mount(self, chain: str, found: FoundImage) -> None:
        path = self.mountpoint(chain)
        self._step("mount")
        if mount_at(str(path)) is not None:  # containers on it fail anyway, and keep it
            _log.warning("%s is dead or refuted, and is mounted again", printable_path(str(path)))
            unmount(str(path), lazy=True)
        self._step("make mountpoint")
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=self._directory.fd)
        self._step("mount image")
        with Image.of(found) as image:
            self.mounting.mount(Job.of(image, str(path), self.mounting.options))
        self._step("mounted")
        gc.collect()
        trim_heap()  # merging trees leaves much free memory

    def _unmount(self, chain: str) -> None:
        path = str(self.mountpoint(chain))
        self._step("unmount image")
        try:
            with locked(path):
                unmount_image(path, lazy=False)
        except MountError as error:
            _log.warning("%s", error)
            return
        self._step("remove mountpoint")
        with contextlib.suppress(OSError):
            os.rmdir(path)
        self._used.pop(chain, None)

    def mounted(self) -> list[str]:
        """Return the chains that are mounted."""
        names = {
            os.path.basename(mount.mountpoint)
            for mount in mount_table()
            if os.path.dirname(mount.mountpoint) == str(self._directory.path)
        }
        return [f"{'sha256' if len(name) == _SHA256_HEX else 'sha512'}:{name}" for name in names]
