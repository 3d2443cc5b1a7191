"""The same image with its layers compressed anew."""

import hashlib
import json
import subprocess
from pathlib import Path

from tests.images import LAYER, LAYOUT_VERSION, REF_NAME, Json, blob_path, digest, index_of, to_json


def recompress(layout: Path, tag: str, target: Path, command: list[str], suffix: str) -> Path:
    """Write the image as the layout `target`, each layer being what `command` makes of its tar stream."""
    (target / "blobs/sha256").mkdir(parents=True)
    (target / "oci-layout").write_bytes(LAYOUT_VERSION)
    index = json.loads((layout / "index.json").read_bytes())
    (image,) = (each for each in index["manifests"] if each["annotations"][REF_NAME] == tag)
    manifest = json.loads((layout / blob_path(image["digest"])).read_bytes())
    config = (layout / blob_path(manifest["config"]["digest"])).read_bytes()
    (target / blob_path(manifest["config"]["digest"])).write_bytes(config)
    manifest["layers"] = [
        {**_layer(layout / blob_path(layer["digest"]), target, command), "mediaType": LAYER + suffix}
        for layer in manifest["layers"]
    ]
    data = to_json(manifest)
    (target / blob_path(digest(data))).write_bytes(data)
    described = {"mediaType": image["mediaType"], "digest": digest(data), "size": len(data)}
    (target / "index.json").write_bytes(to_json(index_of([described])))
    return target


def _layer(blob: Path, target: Path, command: list[str]) -> Json:
    new = target / "blobs/new"
    with (
        subprocess.Popen(["gzip", "-dc", blob], stdout=subprocess.PIPE) as plain,
        new.open("wb") as out,
    ):
        subprocess.run(command, stdin=plain.stdout, stdout=out, check=True)
    with new.open("rb") as file:
        name = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    size = new.stat().st_size
    new.rename(target / blob_path(name))
    return {"digest": name, "size": size}
