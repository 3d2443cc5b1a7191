"""containerd's requests for snapshots: the effect of each on metadata, directories and images.

A container's file system is one overlay: the writes on top, below them the ordinary snapshots down to the first remote
one, and the merged mount of that one's image at the bottom. A chain ID names all layers below it, so snapshots below a
remote one do not matter. All methods are safe for several threads, and raise SnapshotError.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from ocifs.snapshotter.database import StepHook
from ocifs.snapshotter.directories import Owner, SnapshotDirectories, disk_usage, owner_of
from ocifs.snapshotter.id_mapping import id_mapping
from ocifs.snapshotter.images import Images
from ocifs.snapshotter.metadata import Metadata, Snapshot, SnapshotKind
from ocifs.snapshotter.pulls import Pulls
from ocifs.snapshotter.requested_image import TARGET
from ocifs.snapshotter.status import SnapshotError, already_exists

_INDEX: Final = Path("/sys/module/overlay/parameters/index")
_REUSE: Final = 20.0
"""The usage of an active snapshot is counted again after this many times the duration of the last count."""
_log = logging.getLogger(__name__)


class SnapshotMount(NamedTuple):
    """A mount for containerd to make (containerd's type Mount)."""

    type: str
    source: str
    options: tuple[str, ...]


class _Counted(NamedTuple):
    kind: SnapshotKind
    """That of the snapshot when it was counted."""
    usage: tuple[int, int]
    until: float


class Snapshots:
    """All snapshots of a snapshotter."""

    def __init__(
        self,
        metadata: Metadata,
        directories: SnapshotDirectories,
        images: Images,
        pulls: Pulls,
        step: StepHook = lambda name: None,
    ) -> None:
        self.metadata = metadata
        self.images = images
        self._directories = directories
        self._pulls = pulls
        self._step = step
        self._counted: dict[int, _Counted] = {}
        self._sweeping = threading.Lock()

    def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> list[SnapshotMount]:
        """Add an active snapshot, and return its mounts.

        A snapshot that a pull will commit, and whose image is served lazily, is committed at once: then the error is
        ALREADY_EXISTS, and containerd fetches and unpacks nothing.
        """
        if TARGET in labels:
            self._serve_lazily(key, parent, labels)
        return self._create("active", key, parent, labels)

    def view(self, key: str, parent: str, labels: Mapping[str, str]) -> list[SnapshotMount]:
        """Add a view, which is read-only, and return its mounts."""
        return self._create("view", key, parent, labels)

    def mounts(self, key: str) -> list[SnapshotMount]:
        """Return the mounts of an active snapshot or a view; mount its image again if it is not mounted."""
        lineage = self.metadata.lineage(key)
        if lineage[0].kind == "committed":
            raise SnapshotError("FAILED_PRECONDITION", f"snapshot {key!r} is committed: it has no mounts")
        return self._mounts(lineage)

    def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Turn the active snapshot `key` into the committed one `name`. Its usage is counted later, on demand."""
        self.metadata.commit(name, key, labels)

    def remove(self, key: str) -> None:
        """Remove a snapshot; its files and the mount of its image are removed by the next `cleanup`."""
        removed = self.metadata.remove(key)
        self._counted.pop(removed.id, None)
        if removed.chain is not None:
            self.images.forget(removed.chain)

    def cleanup(self) -> None:
        """Remove the files of removed snapshots, and unmount images that no snapshot has."""
        with self._sweeping:
            self._step("sweep")
            self._directories.sweep(self.metadata)
            self._step("unmount")
            self.images.unmount_unused()

    def usage(self, key: str) -> tuple[int, int]:
        """Return the bytes and inodes of a snapshot itself; a remote one has none.

        The kubelet asks for all snapshots every few seconds: a count is kept for a committed snapshot, and reused for a
        while for an active one.
        """
        found = self.metadata.get(key)
        if found.chain is not None:
            return 0, 0
        if found.usage is not None:
            return found.usage
        began = time.monotonic()
        counted = self._counted.get(found.id)
        if counted is None or counted.kind != found.kind or counted.until < began:
            usage = disk_usage(self._directories.files(found.id))
            ended = time.monotonic()
            counted = self._counted[found.id] = _Counted(found.kind, usage, ended + _REUSE * (ended - began))
            if found.kind == "committed":
                self._keep_usage(found, usage)
        return counted.usage

    def _keep_usage(self, committed: Snapshot, usage: tuple[int, int]) -> None:
        try:
            self.metadata.note_usage(committed, *usage)
        except SnapshotError as error:  # on a full disk, the kubelet needs to know the usage all the more
            _log.warning("%s", error)
        else:
            self._counted.pop(committed.id, None)

    def _serve_lazily(self, key: str, parent: str, labels: Mapping[str, str]) -> None:
        """Commit the snapshot of a pull if its image is served lazily; then raise ALREADY_EXISTS."""
        below = self.metadata.get(parent) if parent else None
        source = self._pulls.source_of(labels, below)
        if source is None:
            return
        self.metadata.add_remote(key, parent, labels, labels[TARGET], source)
        raise already_exists(labels[TARGET])

    def _create(
        self, kind: Literal["active", "view"], key: str, parent: str, labels: Mapping[str, str]
    ) -> list[SnapshotMount]:
        ancestors = self.metadata.lineage(parent) if parent else []
        mapping = id_mapping(labels) if kind == "active" else None
        base = next((each.chain for each in ancestors if each.chain is not None), None)
        if base is not None:
            self.images.ensure(base)
            if mapping is not None:
                self._check_mapping(ancestors[0], base)
        owner = self._owner_of(ancestors[0]) if ancestors else Owner()
        if mapping is not None:
            owner = mapping.shift(owner)

        def make(number: int) -> None:
            self._directories.make(number, owner, active=kind == "active")

        self.metadata.create(kind, key, parent, labels, make)
        return self._mounts(self.metadata.lineage(key))  # mounts the image again if it was idle until now

    def _check_mapping(self, parent: Snapshot, base: str) -> None:
        """Check that containerd can map the owners in a snapshot on `parent`, whose image is that of `base`."""
        if not self.images.can_be_mapped(base):
            raise SnapshotError(
                "FAILED_PRECONDITION",
                "an image of the fuse engine cannot be mapped to a user namespace: run ocifs snapshotter with the "
                "erofs engine (Linux 6.12), or containerd without user namespaces",
            )
        if parent.chain is None:
            raise SnapshotError(
                "FAILED_PRECONDITION",
                "unpacked layers on an image that is served lazily cannot be mapped to a user namespace: publish an "
                "index of the image with `ocifs index push` and pull it again, or run it without a user namespace",
            )

    def _owner_of(self, parent: Snapshot) -> Owner:
        """Return the owner of the root directory of a snapshot on `parent`: that of the parent's."""
        if parent.kind != "committed":  # `Metadata.create` will refuse it
            return Owner()
        if parent.chain is not None:
            return owner_of(self.images.mountpoint(parent.chain))
        return self._directories.owner(parent.id)

    def _mounts(self, lineage: Sequence[Snapshot]) -> list[SnapshotMount]:
        """Return the mounts of a snapshot, given it and its ancestors."""
        snapshot, *ancestors = lineage
        lower: list[str] = []
        for each in ancestors:
            if each.chain is not None:
                lower.append(str(self.images.ensure(each.chain)))
                break
            lower.append(str(self._directories.files(each.id)))
        files = str(self._directories.files(snapshot.id))
        if snapshot.kind == "view":
            if len(lower) <= 1:
                return [SnapshotMount("bind", lower[0] if lower else files, ("ro", "rbind"))]
            return [SnapshotMount("overlay", "overlay", (*_overlay_options(), f"lowerdir={':'.join(lower)}"))]
        if not lower:
            return [SnapshotMount("bind", files, ("rw", "rbind"))]
        own = (f"workdir={self._directories.work(snapshot.id)}", f"upperdir={files}")
        mapping = id_mapping(snapshot.labels)
        if mapping is not None and ancestors[0].chain is not None:
            # containerd 2.1 maps a copy of the mount of the parent of `lowerdir`: with the slash, the image itself.
            lower[0] += "/"
        mapped = () if mapping is None else mapping.options()
        return [
            SnapshotMount("overlay", "overlay", (*_overlay_options(), *mapped, *own, f"lowerdir={':'.join(lower)}"))
        ]


def _overlay_options() -> tuple[str, ...]:
    """Return the options of every overlay: no index, as it would bind an upper directory to one set of lower ones."""
    return ("index=off",) if os.path.exists(_INDEX) else ()
