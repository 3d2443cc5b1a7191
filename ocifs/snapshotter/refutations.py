"""Report each refuted image once: in the log, in the metrics, and as an event of containerd.

A mount is refuted if its published index has turned out to be false. Its process alone knows that at first, and records
it; the snapshotter reads the records periodically.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.struct_pb2 import Struct

from ocifs.errors import printable_path
from ocifs.mount.record import ListedMount
from ocifs.service.notify import IMAGE, MESSAGE_ID, MOUNT
from ocifs.snapshotter.cri_pb2 import PublishRequest
from ocifs.snapshotter.images import Images
from ocifs.snapshotter.metadata import Metadata

TOPIC: Final = "/ocifs/image-refuted"
"""Topic of the event. It is a google.protobuf.Struct of strings: image, manifest, chain, mountpoint, reason."""
REFUTED_ID: Final = "b7c1f0a94d5e4c0c8a3f6d2e91b45f07"
"""MESSAGE_ID of the line in the journal (systemd.journal-fields(7))."""
_PUBLISH: Final = "/containerd.services.events.v1.Events/Publish"
_NAMESPACE: Final = "containerd-namespace"
_DEFAULT: Final = "default"
_PATIENCE: Final = 5.0
"""Seconds to wait for containerd."""
_log = logging.getLogger(__name__)


class Refutations:
    """The refuted images of a snapshotter, for one thread at a time."""

    def __init__(self, images: Images, metadata: Metadata, containerd: Path, observe: Callable[[], None]) -> None:
        """Publish at containerd's socket; call `observe` for each image."""
        self._images = images
        self._metadata = metadata
        self._containerd = containerd
        self._observe = observe
        self._reported: set[tuple[str, float]] = set()
        """Chains, and when they were mounted."""

    def report(self) -> None:
        """Report the images that were refuted since the last call. Raises SnapshotError."""
        refuted = {(chain, mount.since): mount for chain, mount in self._images.refuted().items()}
        new = refuted.keys() - self._reported
        self._reported = {*refuted}
        for chain, since in sorted(new):
            self._observe()
            self._report(chain, refuted[chain, since])

    def _report(self, chain: str, mount: ListedMount) -> None:
        image = printable_path(mount.image)
        _log.error(
            "image %s is refuted, so its containers fail: %s", image, mount.refuted,
            extra={IMAGE: mount.image, MOUNT: mount.mountpoint, MESSAGE_ID: REFUTED_ID},
        )  # fmt: skip
        if not self._containerd.is_socket():
            return
        value = Struct()
        value.update(
            {
                "image": image,
                "manifest": mount.digest,
                "chain": chain,
                "mountpoint": printable_path(mount.mountpoint),
                "reason": mount.refuted or "",
            }
        )
        # As containerd has them, without the host of a URL: so `ctr events` knows the type.
        event = Any(type_url=value.DESCRIPTOR.full_name, value=value.SerializeToString())
        # containerd puts the namespace of a client in front of the names of its snapshots.
        users = (name.partition("/") for name in self._metadata.users(chain))
        for namespace in sorted({first for first, slash, _ in users if slash}) or [_DEFAULT]:
            try:
                self._publish(namespace, PublishRequest(topic=TOPIC, event=event))
            except grpc.RpcError as failure:
                why = printable_path(f"{failure.code().name}: {failure.details()}"[:300])
                _log.warning("containerd takes no event in its namespace %s: %s", printable_path(namespace), why)

    def _publish(self, namespace: str, request: PublishRequest) -> None:
        """Publish an event in a namespace of containerd. Raises grpc.RpcError."""
        with grpc.insecure_channel(f"unix:{self._containerd}") as channel:
            call = channel.unary_unary(_PUBLISH, request_serializer=bytes, response_deserializer=bytes)
            call(request.SerializeToString(), timeout=_PATIENCE, metadata=[(_NAMESPACE, namespace)])
