"""Images derived from another one: all its layers, and a small one of their own on top."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path


def derive(reference: str, count: int, target: Path) -> Path:
    """Write a layout with images tagged 0 to `count` - 1, from `oci:LAYOUT:TAG`; return its directory."""
    place, _, tag = reference.removeprefix("oci:").rpartition(":")
    layout = Path(place)
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def add(data: bytes, media_type: str) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    def read(descriptor: dict[str, str]) -> bytes:
        return (layout / "blobs/sha256" / descriptor["digest"].partition(":")[2]).read_bytes()

    listed = json.loads((layout / "index.json").read_bytes())["manifests"]
    found = next(each for each in listed if each["annotations"]["org.opencontainers.image.ref.name"] == tag)
    manifest = json.loads(read(found))
    config = json.loads(read(manifest["config"]))
    for layer in manifest["layers"]:
        name = layer["digest"].partition(":")[2]
        if not (blobs / name).exists():
            os.symlink((layout / "blobs/sha256" / name).resolve(), blobs / name)
    images = []
    for number in range(count):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            data = os.urandom(64 << 10)
            member = tarfile.TarInfo(f"own{number}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        layer = add(gzip.compress(content.getvalue(), mtime=0), manifest["layers"][0]["mediaType"])
        diff_id = f"sha256:{hashlib.sha256(content.getvalue()).hexdigest()}"
        own = {**config, "rootfs": {"type": "layers", "diff_ids": [*config["rootfs"]["diff_ids"], diff_id]}}
        own.pop("history", None)
        made = {
            **manifest,
            "config": add(json.dumps(own).encode(), manifest["config"]["mediaType"]),
            "layers": [*manifest["layers"], layer],
        }
        described = add(json.dumps(made).encode(), found["mediaType"])
        images.append({**described, "annotations": {"org.opencontainers.image.ref.name": str(number)}})
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": images}))
    return target
