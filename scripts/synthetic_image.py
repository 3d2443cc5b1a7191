"""synthetic_image.py DIR [--files N] [--layers N]: write a large OCI image layout, to measure how time grows with size.

Each layer adds its share of small files, in directories of a hundred. Each layer above the base also replaces some
files of the layer below, removes some with whiteouts, and makes one directory opaque. The same arguments yield the
same image.
"""

import argparse
import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

_IN_DIRECTORY = 100
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def main(directory: Path, files: int, layers: int) -> None:
    """Write the layout."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    written = [_write_layer(blobs, number, files // layers) for number in range(layers)]
    history = [{"created": "1970-01-01T00:00:00Z", "created_by": f"layer {number}"} for number in range(layers)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in written]},
        "history": history,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _put(blobs, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor for descriptor, _ in written],
    }
    descriptor = _put(blobs, json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _put(blobs: Path, data: bytes, media_type: str) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _write_layer(blobs: Path, number: int, count: int) -> tuple[dict[str, object], str]:
    """Write one layer; return its descriptor and its diff ID."""
    new = blobs / "new"
    diff_id = hashlib.sha256()
    with new.open("wb") as blob, gzip.GzipFile("", "wb", 1, blob, mtime=0) as out:
        for data in _members(number, count):
            diff_id.update(data)
            out.write(data)
        diff_id.update(bytes(1024))
        out.write(bytes(1024))
    with new.open("rb") as blob:
        digest = hashlib.file_digest(blob, "sha256").hexdigest()
    size = new.stat().st_size
    os.rename(new, blobs / digest)
    return {"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": size}, f"sha256:{diff_id.hexdigest()}"


def _members(number: int, count: int) -> Iterator[bytes]:
    below = number - 1
    for index in range(count):
        if index % _IN_DIRECTORY == 0:
            yield _member(_directory(number, index), None)
        yield _member(_path(number, index), f"{number} {index}\n".encode() * (1 + index % 50))
    if number:
        for index in range(0, count, 40):
            yield _member(_path(below, index), b"replaced\n")
        for index in range(1, count, 80):
            directory, _, name = _path(below, index).rpartition("/")
            yield _member(f"{directory}/.wh.{name}", b"")
        yield _member(f"{_directory(below, 0)}/.wh..wh..opq", b"")


def _directory(number: int, index: int) -> str:
    return f"usr/share/layer{number:03}/{index // _IN_DIRECTORY:05}"


def _path(number: int, index: int) -> str:
    return f"{_directory(number, index)}/file{index:07}.{'so' if index % 7 else 'txt'}"


def _member(path: str, content: bytes | None) -> bytes:
    info = tarfile.TarInfo(path)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    info.mode = 0o755 if content is None else 0o644
    data = content or b""
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--files", type=int, default=500_000)
    parser.add_argument("--layers", type=int, default=40)
    chosen = parser.parse_args()
    main(chosen.directory, chosen.files, chosen.layers)
