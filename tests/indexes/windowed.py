"""An image of which every span needs a window that hardly compresses, and the index of it in a registry."""

import functools
import json
import random
from collections.abc import Callable

from ocifs.image.opening import open_image
from ocifs.indexes.artifact import make_artifact
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.index import LayerIndex
from ocifs.limits import DEFAULT_LIMITS
from ocifs.options import Options
from ocifs.reader import BytesReader
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Store
from tests.images import Files, Image, Layer, digest, layout_files, tar, to_json
from tests.registry import Registry, running

_RANDOM = random.Random(7)
_REPEATED = _RANDOM.randbytes(16 << 10)
SPANS = 14
DATA = b"".join(_REPEATED + _RANDOM.randbytes(12 << 10) for _ in range((SPANS << 20) // (28 << 10)))
"""Every 32 KiB of it have bytes that the next ones repeat: so every span needs a window, which hardly compresses."""
BASE = Layer(tar({"data": DATA, "small": b"small\n"}))
IMAGE = Image((BASE,))

Alter = Callable[[bytes, dict[str, str]], tuple[bytes, dict[str, str]]]


@functools.cache
def index() -> LayerIndex:
    """The index of the layer, as it is built here."""
    blob = LayerBlob(Digest.of(BASE.blob), DiffID(Digest.of(BASE.tar)), BytesReader(BASE.blob))
    return open_layer_index(blob, Store(None), DEFAULT_LIMITS, lambda message: None, lambda *_: None)


@functools.cache
def files() -> Files:
    return layout_files(IMAGE)


@functools.cache
def artifact() -> tuple[bytes, bytes]:
    """The manifest of an artifact with the index, and the index in it."""
    with running() as registry, open_image(registry.add("app", files()), Options(lazy=False)) as image:
        manifest, (_, content) = make_artifact(image.resolved, [index()])
    return manifest.blob.pread(manifest.descriptor.size, 0), content.blob.pread(content.descriptor.size, 0)


def unchanged(data: bytes, annotations: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    return data, annotations


def publish(registry: Registry, alter: Alter = unchanged) -> str:
    """Publish the index, as `alter` makes it; return its digest."""
    manifest, data = artifact()
    document = json.loads(manifest)
    data, annotations = alter(data, document["layers"][0]["annotations"])
    document["layers"][0] |= {"digest": digest(data), "size": len(data), "annotations": annotations}
    registry.blobs["app"] |= {digest(each): each for each in (data, to_json(document), b"{}")}
    return digest(data)


def ranges(registry: Registry, digest: str) -> list[tuple[int, int] | None]:
    """The ranges (begin, end) of a blob that were requested; None: all of it."""
    found = [request.range.removeprefix("bytes=") for request in registry.sent if digest in request.path]
    return [(int(each.split("-")[0]), int(each.split("-")[1]) + 1) if each else None for each in found]
