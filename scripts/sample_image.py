"""sample_image.py DIR: write a small OCI image layout of three layers, with whiteouts, hard links and a symlink.

It needs only Python. The demo uses it, and it shows what a layer looks like.
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

Member = tuple[str, bytes, str | bytes]
"""(path, tar type, content or link target)."""

_LAYERS: list[list[Member]] = [
    [
        ("bin", tarfile.DIRTYPE, b""),
        ("bin/hello", tarfile.REGTYPE, b"#!/bin/sh\necho hello from a layer\n"),
        ("bin/hi", tarfile.LNKTYPE, "bin/hello"),
        ("etc", tarfile.DIRTYPE, b""),
        ("etc/motd", tarfile.REGTYPE, b"This is the base layer.\n"),
        ("etc/secret", tarfile.REGTYPE, b"The second layer hides me.\n"),
        ("usr/share/doc/old", tarfile.REGTYPE, b"The third layer hides all of doc.\n"),
    ],
    [
        ("etc/motd", tarfile.REGTYPE, b"This is the second layer: it replaced the base layer's file.\n"),
        ("etc/.wh.secret", tarfile.REGTYPE, b""),
        ("etc/release", tarfile.SYMTYPE, "motd"),
    ],
    [
        ("usr/share/doc/.wh..wh..opq", tarfile.REGTYPE, b""),
        ("usr/share/doc/new", tarfile.REGTYPE, b"Only this is documented.\n"),
    ],
]


def main(directory: Path) -> None:
    """Write the layout."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    tars = [_tar(members) for members in _LAYERS]
    layers = [put(gzip.compress(tar, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip") for tar in tars]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    descriptor = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _tar(members: list[Member]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, kind, content in members:
            info = tarfile.TarInfo(path)
            info.type = kind
            info.mode = 0o755 if kind == tarfile.DIRTYPE or path.startswith("bin/") else 0o644
            if isinstance(content, str):
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
