"""The settings of a snapshotter: every choice of its operator, as one value."""

from pathlib import Path

import msgspec

from ocifs.mount.options import MountOptions
from ocifs.options import Options

DEFAULT_ROOT = Path("/var/lib/ocifs/snapshotter")
DEFAULT_ADDRESS = Path("/run/ocifs/snapshotter.sock")
DEFAULT_CONTAINERD = Path("/run/containerd/containerd.sock")
DEFAULT_IDLE = 300.0
DEFAULT_INDEX_UP_TO = 16 << 20


class SnapshotterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a snapshotter."""

    root: Path = DEFAULT_ROOT
    """Directory of the metadata, the snapshots and the mountpoints of images; another snapshotter cannot use it."""
    address: Path = DEFAULT_ADDRESS
    """The Unix socket, of at most 107 bytes."""
    options: Options
    """How images are opened. `trust_index` None: trust an index from the registry that the pull named, by tag or by
    digest."""
    mounting: MountOptions = MountOptions()
    """How merged mounts are served; device nodes and setuid always have effect, as in any container."""
    idle: float = DEFAULT_IDLE
    """Seconds after which a merged mount without a user is unmounted; 0: never."""
    index_up_to: int = DEFAULT_INDEX_UP_TO
    """Most compressed bytes of layers without an index that ocifs indexes itself; containerd unpacks larger images."""
    decision_seconds: float = 15.0
    """Seconds that a pull waits for the registry; then containerd pulls the layer. Meanwhile it collects no garbage."""
    mount_seconds: float = 10.0
    """Seconds that a pull waits for the mount of an image whose layers have indexes; then they are answered before it.
    """
    indexing_seconds: float = 600.0
    """Seconds that a pull waits for layers without an index; then containerd pulls them, too."""
    image_service: Path | None = None
    """Where CRI's image service is forwarded to containerd, to learn credentials; None: nowhere."""
    containerd: Path = DEFAULT_CONTAINERD
    """containerd's socket."""
    service: bool = True
    """Whether to mount by the service of ocifs, and to start it if it does not run."""
    metrics: str | None = None
    """Where metrics are served: `unix:PATH` or `127.0.0.1:PORT`; None: nowhere."""
