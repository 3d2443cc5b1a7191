"""Images from literals: layers given as tar bytes, written as layouts and archives.

`layout_files` returns the files of a layout as a dict of path to bytes, which a test may damage before it writes
them with `write_directory` or `write_archive`.
"""

import base64
import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import zstandard

Json = dict[str, object]
Files = dict[str, bytes]

OCI = "application/vnd.oci.image."
INDEX = f"{OCI}index.v1+json"
MANIFEST = f"{OCI}manifest.v1+json"
CONFIG = f"{OCI}config.v1+json"
LAYER = f"{OCI}layer.v1.tar"
LAYOUT_VERSION = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"


def digest(data: bytes, algorithm: str = "sha256") -> str:
    """Return `algorithm:hex` of `data`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def blob_path(name: str) -> str:
    """Return where a layout keeps the blob of a digest."""
    return f"blobs/{name.replace(':', '/')}"


def to_json(document: object) -> bytes:
    """Return a document as bytes, always the same ones."""
    return json.dumps(document, separators=(",", ":")).encode()


def tar(files: dict[str, bytes | None]) -> bytes:
    """Return a tar of regular files; None makes a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.mode = 0o755 if content is None else 0o644
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


@dataclass(frozen=True)
class Layer:
    """A layer to be written. `descriptor` replaces members of its descriptor, to make it wrong or odd."""

    tar: bytes = field(default_factory=lambda: tar({"file": b"content"}))
    compression: Literal["tar", "gzip", "zstd"] = "gzip"
    diff_id: str | None = None
    embedded: bool = False
    descriptor: Json = field(default_factory=dict)

    @cached_property
    def blob(self) -> bytes:
        """The layer as stored."""
        match self.compression:
            case "gzip":
                return gzip.compress(self.tar, 6, mtime=0)
            case "zstd":
                return zstandard.compress(self.tar)
            case "tar":
                return self.tar


@dataclass(frozen=True)
class Image:
    """An image to be written. `config` and `manifest` replace members of those documents."""

    layers: tuple[Layer, ...] = (Layer(),)
    tag: str | None = "latest"
    platform: Json | None = None
    """In the descriptor, and in the config; None: linux/amd64, in the config only."""
    config: Json = field(default_factory=dict)
    manifest: Json = field(default_factory=dict)
    descriptor: Json = field(default_factory=dict)
    algorithm: str = "sha256"


def add(files: Files, data: bytes, media_type: str, algorithm: str = "sha256") -> Json:
    """Add a blob to a layout and return its descriptor."""
    name = digest(data, algorithm)
    files[blob_path(name)] = data
    return {"mediaType": media_type, "digest": name, "size": len(data)}


def add_layer(files: Files, layer: Layer, algorithm: str = "sha256") -> Json:
    """Add a layer to a layout, unless it is to be embedded, and return its descriptor."""
    suffix = "" if layer.compression == "tar" else f"+{layer.compression}"
    descriptor = add({} if layer.embedded else files, layer.blob, LAYER + suffix, algorithm)
    if layer.embedded:
        descriptor["data"] = base64.b64encode(layer.blob).decode()
    return descriptor | layer.descriptor


def config_of(image: Image) -> Json:
    """Return the config of an image."""
    platform = image.platform or {"os": "linux", "architecture": "amd64"}
    diff_ids = [layer.diff_id or digest(layer.tar) for layer in image.layers]
    return {**platform, "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}} | image.config


def add_image(files: Files, image: Image) -> Json:
    """Add an image to a layout and return the descriptor of its manifest, tag and platform included."""
    algorithm = image.algorithm
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": add(files, to_json(config_of(image)), CONFIG, algorithm),
        "layers": [add_layer(files, layer, algorithm) for layer in image.layers],
    } | image.manifest
    descriptor = add(files, to_json(manifest), str(manifest["mediaType"]), algorithm)
    if image.tag is not None:
        descriptor["annotations"] = {REF_NAME: image.tag}
    if image.platform is not None:
        descriptor["platform"] = image.platform
    return descriptor | image.descriptor


def add_index(files: Files, manifests: list[Json], tag: str | None = None) -> Json:
    """Add an image index to a layout and return its descriptor."""
    descriptor = add(files, to_json(index_of(manifests)), INDEX)
    return descriptor if tag is None else descriptor | {"annotations": {REF_NAME: tag}}


def index_of(manifests: list[Json]) -> Json:
    """Return an image index."""
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}


def layout_files(*images: Image) -> Files:
    """Return the files of a layout that holds `images`."""
    files: Files = {"oci-layout": LAYOUT_VERSION}
    files["index.json"] = to_json(index_of([add_image(files, image) for image in images]))
    return files


def docker_files(*images: tuple[Image, list[str]]) -> Files:
    """Return the members of what `docker save` writes of the images under their names."""
    files: Files = {}
    items: list[Json] = []
    for image, names in images:
        config = to_json(config_of(image))
        config_path = f"{digest(config)[7:]}.json"
        files[config_path] = config
        paths = []
        for layer in image.layers:
            paths.append(f"{digest(layer.blob)[7:]}.tar")
            files[paths[-1]] = layer.blob
        items.append({"Config": config_path, "RepoTags": names or None, "Layers": paths})
    return files | {"manifest.json": to_json(items)}


def write_directory(path: Path, files: Files) -> Path:
    """Write files below `path`."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_archive(path: Path, files: Files) -> Path:
    """Write files as the members of a tar at `path`."""
    path.write_bytes(tar(dict(files)))
    return path


def write_layout(path: Path, *images: Image) -> Path:
    """Write a layout directory."""
    return write_directory(path, layout_files(*images))


def write_oci_archive(path: Path, *images: Image) -> Path:
    """Write a layout as a tar file."""
    return write_archive(path, layout_files(*images))


def write_docker_archive(path: Path, *images: tuple[Image, list[str]]) -> Path:
    """Write what `docker save` writes."""
    return write_archive(path, docker_files(*images))


def dir_files(image: Image) -> Files:
    """Return the files of what `skopeo copy … dir:DIR` writes of an image."""
    files: Files = {}
    manifest = files.pop(blob_path(str(add_image(files, image)["digest"])))
    names = {f"{name.rpartition('/')[2]}": data for name, data in files.items()}
    return names | {"manifest.json": manifest, "version": b"Directory Transport Version: 1.1\n"}
