"""Stores of containers/storage from literals: the files that podman writes for images that it has pulled."""

import base64
import io
import json
import os
import tarfile
from pathlib import Path

from ocifs.tarsplit.entries import encode
from ocifs.tarsplit.stream import MemberRange, disassemble
from tests.images import CONFIG, LAYER, MANIFEST, Image, config_of, digest, to_json


def layer_id(chain: list[bytes]) -> str:
    """Return an ID for the last of several layers."""
    return digest(b"".join(chain))[7:]


def diff_of(store: Path, identity: str, driver: str = "overlay") -> Path:
    """Return where a layer is extracted."""
    return store / "overlay" / identity / "diff" if driver == "overlay" else store / "vfs/dir" / identity


def write_store(store: Path, *images: tuple[Image, list[str]], driver: str = "overlay") -> Path:
    """Write a store with images under their names."""
    listed, layers = [], {}
    for image, names in images:
        parent = ""
        for number, layer in enumerate(image.layers):
            identity = layer_id([each.tar for each in image.layers[: number + 1]])
            if identity not in layers:
                _extract(store, identity, layer.tar, driver)
            layers[identity] = {"id": identity, "parent": parent, "diff-digest": digest(layer.tar), "diff-size": -1}
            parent = identity
        config = to_json(config_of(image))
        manifest = to_json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
                "layers": [
                    {"mediaType": f"{LAYER}+gzip", "digest": digest(each.blob), "size": len(each.blob)}
                    for each in image.layers
                ],
            }
        )
        image_id = digest(config)[7:]
        place = store / f"{driver}-images" / image_id
        place.mkdir(parents=True)
        (place / "manifest").write_bytes(manifest)
        (place / f"={base64.b64encode(digest(config).encode()).decode()}").write_bytes(config)
        listed.append({"id": image_id, "digest": digest(manifest), "names": names or None, "layer": parent})
    (store / f"{driver}-images").mkdir(parents=True, exist_ok=True)
    (store / f"{driver}-images/images.json").write_bytes(to_json(listed))
    (store / f"{driver}-layers").mkdir(exist_ok=True)
    (store / f"{driver}-layers/layers.json").write_bytes(to_json([*layers.values()]))
    return store


def change(path: Path, **members: object) -> None:
    """Replace members of every item of a JSON list."""
    path.write_bytes(to_json([{**each, **members} for each in json.loads(path.read_bytes())]))


def _extract(store: Path, identity: str, stream: bytes, driver: str) -> None:
    """Extract a layer, and write its tar-split file, without checksums."""
    root = diff_of(store, identity, driver)
    root.mkdir(parents=True, exist_ok=True)
    ranges = []
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        for member in archive:
            path = root / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.isreg():
                path.write_bytes(stream[member.offset_data : member.offset_data + member.size])
                ranges.append(MemberRange(member.offset_data, member.size, os.fsencode(member.name)))
            elif member.issym():
                path.symlink_to(member.linkname)
    entries = disassemble([stream], ranges, 1 << 30, crc=lambda data, before: 0)
    place = store / f"{driver}-layers/{identity}.tar-split.gz"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"".join(encode(entries)))
