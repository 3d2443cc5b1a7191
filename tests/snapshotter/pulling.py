"""A pull, as containerd and its clients make it: layer by layer, with labels, through containerd's own metadata."""

import contextlib
import itertools
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from ocifs.image.opening import open_image
from ocifs.indexes.artifact import make_artifact
from ocifs.layer.index import LayerIndex
from ocifs.options import Options
from ocifs.spec.digest import DiffID, Digest, chain_id
from tests.images import Image, add_image, digest, layout_files
from tests.registry import Registry
from tests.snapshotter.client import Client, mounted

TARGET = "containerd.io/snapshot.ref"
_COUNT = itertools.count()


@dataclass(frozen=True)
class Published:
    """An image in a registry."""

    registry: Registry
    repository: str
    image: Image

    @property
    def manifest(self) -> str:
        return str(add_image({}, self.image)["digest"])

    @property
    def layers(self) -> list[str]:
        return [digest(layer.blob) for layer in self.image.layers]

    @property
    def chains(self) -> list[str]:
        diff_ids = [DiffID(Digest(digest(layer.tar))) for layer in self.image.layers]
        return [str(chain_id(diff_ids[: count + 1])) for count in range(len(diff_ids))]

    def requests(self) -> list[str]:
        """Return the requests for layers."""
        return [request.path for request in self.registry.sent if request.path.rpartition("/")[2] in self.layers]


def publish(
    registry: Registry,
    repository: str,
    image: Image,
    *,
    index: bool = True,
    alter: Callable[[LayerIndex], LayerIndex] = lambda index: index,
) -> Published:
    """Put an image into a registry, by default with an index beside it; `alter` changes that of each layer."""
    reference = registry.add(repository, layout_files(image))
    if index:
        with open_image(reference, Options(lazy=False)) as opened:
            manifest, blobs = make_artifact(opened.resolved, [alter(each) for each in opened.indexes])
            opened.source.referrers().attach(opened.resolved.descriptor, manifest, blobs)
    registry.requests.clear()
    return Published(registry, repository, image)


def cri_labels(published: Published, number: int) -> dict[str, str]:
    """Return the labels of CRI for a layer."""
    cri = "containerd.io/snapshot/cri."
    return {
        f"{cri}image-ref": f"{published.registry.host}/{published.repository}:latest",
        f"{cri}manifest-digest": published.manifest,
        f"{cri}layer-digest": published.layers[number],
        f"{cri}image-layers": ",".join(published.layers[number:]),
    }


def stargz_labels(published: Published, number: int) -> dict[str, str]:
    """Return the labels of `ctr-remote` for a layer."""
    stargz = "containerd.io/snapshot/remote/stargz."
    return {
        f"{stargz}reference": f"{published.registry.host}/{published.repository}:latest",
        f"{stargz}digest": published.layers[number],
        f"{stargz}layers": ",".join(published.layers[number:]),
        f"{stargz}prefetch": "10485760",
    }


def no_labels(published: Published, number: int) -> dict[str, str]:
    """Return the labels of a plain pull, except for that of the target."""
    return {}


Labels = Callable[[Published, int], Mapping[str, str]]


@dataclass
class Containerd:
    """containerd's metadata layer: it knows snapshots by namespace and chain, and the snapshotter by other names."""

    client: Client
    directory: Path
    namespace: str = "default"
    names: dict[str, str] = field(default_factory=dict)
    """The snapshotter's name of each committed snapshot, by chain ID."""

    def pull(self, published: Published, labels: Labels = cri_labels) -> list[str]:
        """Pull; return for each layer whether it is `known`, `lazy` or `unpacked`."""
        return [self._layer(published, number, labels) for number in range(len(published.layers))]

    def _layer(self, published: Published, number: int, labels: Labels) -> str:
        target = published.chains[number]
        if target in self.names:
            return "known"
        parent = self.names[published.chains[number - 1]] if number else ""
        key = self.key(f"extract-{number} {target}")
        try:
            mounts = self.client.prepare(key, parent, {TARGET: target, **labels(published, number)})
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
            found, *_ = self.client.walk(f'labels."{TARGET}"=={target},parent=="{parent}"')
            assert self.client.stat(found.name).kind == 3
            self.names[target] = found.name
            return "lazy"
        with mounted(mounts, self.directory / "unpacking") as path:
            unpack = ["tar", "--extract", "--same-permissions", "--directory", str(path)]
            subprocess.run(unpack, input=published.image.layers[number].tar, check=True)
        self.names[target] = f"{self.namespace}/{next(_COUNT)}/{target}"
        self.client.commit(self.names[target], key, {TARGET: target})
        return "unpacked"

    def key(self, name: str) -> str:
        return f"{self.namespace}/{next(_COUNT)}/{name}"

    @contextlib.contextmanager
    def container(self, chain: str) -> Iterator[Path]:
        """Prepare a container on a chain, as containerd does, and mount it; remove it at the end."""
        key = self.key("container")
        self.client.prepare(key, self.names[chain])
        self.client.mounts(key)
        with mounted(self.client.mounts(key), self.directory / f"m{next(_COUNT)}") as path:
            yield path
        self.client.remove(key)

    def remove_image(self, published: Published) -> None:
        """Remove an image and its snapshots, from top to bottom."""
        for chain in reversed(published.chains):
            self.client.remove(self.names.pop(chain))
        self.client.cleanup()
