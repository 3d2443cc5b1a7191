"""The images of the benchmarks, besides the Debian one: built once, and stored beside it.

    large       one layer of a few large files: a file of 1 GiB to read at random, one of 3 GiB to read in order
    scientific  the Debian image and a layer of Python packages upon it (scientific.txt): some 500 MB compressed
    node        Debian with nodejs and npm
    growth-N    31,250 x N small files in 40 layers
    many-layers 100 layers of 20 files
    members-N   one layer of N KiB of tar, each byte of it a gzip member, which no real image has

Large files consist of the bytes of the Debian image, so they compress like real files.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from zlib_ng import zlib_ng

from benchmarks.timing import layer_blobs

SCRIPTS = Path(__file__).parent.parent / "scripts"
_GIB = 1 << 30
LARGE_FILES = {"data/random": _GIB, "data/sequential": 3 * _GIB}
_PIECE = 1 << 20
Document = dict[str, object]
_MEDIA = "application/vnd.oci.image"


def image(name: str, options: argparse.Namespace) -> Path:
    """Return the layout of an image; build it if it does not exist."""
    layout = Path(options.image).parent / f"benchmark-{name}"
    if not (layout / "index.json").exists():
        print(f"making {layout}", file=sys.stderr)
        _MAKERS[name](layout, options)
    return layout


def _make_large(layout: Path, options: argparse.Namespace) -> None:
    _write_layout(layout, _large_layer(options))


def _make_scientific(layout: Path, options: argparse.Namespace) -> None:
    """Install the packages with pip into a directory, and add that as a layer with umoci; write index.json last."""
    requirements = Path(__file__).with_name("scientific.txt")
    site = "/usr/local/lib/python3.11/dist-packages"
    with tempfile.TemporaryDirectory(dir=layout.parent) as name:
        packages, work = Path(name, "packages"), Path(name, "layout")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--python-version", "3.11"]
        subprocess.run([*pip, "--target", packages, "--requirement", requirements], check=True)
        subprocess.run(["skopeo", "copy", "--quiet", f"oci:{options.image}:tools", f"oci:{work}:latest"], check=True)
        subprocess.run(["umoci", "insert", "--image", f"{work}:latest", packages, site], check=True)
        subprocess.run(["umoci", "gc", "--layout", work], check=True)
        shutil.rmtree(layout, ignore_errors=True)
        work.rename(layout)


def _make_node(layout: Path, options: argparse.Namespace) -> None:
    """Install Debian with node, from the mirror of this machine; write index.json last."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release["VERSION_CODENAME"].strip('"')
    targets = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", f"Codename: {suite}"]
    mirror = subprocess.run(targets, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[0]
    with tempfile.TemporaryDirectory(dir=layout.parent) as name:
        work, bundle = Path(name, "layout"), Path(name, "bundle")
        subprocess.run(["umoci", "init", "--layout", work], check=True)
        subprocess.run(["umoci", "new", "--image", f"{work}:latest"], check=True)
        subprocess.run(["umoci", "unpack", "--image", f"{work}:latest", bundle], check=True)
        what = ["--variant=minbase", "--include=nodejs,npm", suite, str(bundle / "rootfs"), mirror]
        subprocess.run(["debootstrap", *what], check=True, stdout=subprocess.DEVNULL)
        for archive in (bundle / "rootfs/var/cache/apt/archives").glob("*.deb"):
            archive.unlink()
        subprocess.run(["umoci", "repack", "--image", f"{work}:latest", bundle], check=True)
        shutil.rmtree(layout, ignore_errors=True)
        work.rename(layout)


def _make_synthetic(files: int, layers: int, layout: Path, options: argparse.Namespace) -> None:
    command = [sys.executable, str(SCRIPTS / "synthetic_image.py"), str(layout)]
    subprocess.run([*command, "--files", str(files), "--layers", str(layers)], check=True)


def _make_members(kib: int, layout: Path, options: argparse.Namespace) -> None:
    content = tarfile.TarInfo("content")
    content.size = (kib << 10) - 3 * tarfile.BLOCKSIZE
    tar = content.tobuf(tarfile.USTAR_FORMAT).ljust(kib << 10, b"\0")
    _write_layout(layout, (tar[place : place + 1] for place in range(len(tar))), each_a_member=True)


_MAKERS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "large": _make_large,
    "scientific": _make_scientific,
    "node": _make_node,
    **{f"growth-{times}": partial(_make_synthetic, 31_250 * times, 40) for times in (1, 4, 16)},
    "many-layers": partial(_make_synthetic, 2_000, 100),
    **{f"members-{kib}": partial(_make_members, kib) for kib in (20, 40, 80, 160, 320, 640)},
}


def _large_layer(options: argparse.Namespace) -> Iterator[bytes]:
    """Yield the tar stream of the layer."""
    content = _content(layer_blobs(options))
    for path, size in LARGE_FILES.items():
        member = tarfile.TarInfo(path)
        member.size = size
        yield member.tobuf(tarfile.USTAR_FORMAT)
        missing = size
        while missing:
            piece = next(content)[:missing]
            missing -= len(piece)
            yield piece
    yield bytes(1024)


def _content(blobs: list[Path]) -> Iterator[bytes]:
    """Yield the contents of gzip blobs, repeating forever."""
    while True:
        for blob in blobs:
            inflate = zlib_ng.decompressobj(wbits=31)
            with blob.open("rb") as file:
                while data := file.read(_PIECE):
                    yield inflate.decompress(data)


def _write_layout(layout: Path, layer: Iterator[bytes], *, each_a_member: bool = False) -> None:
    """Write an image of one gzip layer, with one member or one for each piece; write index.json last."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    temporary = blobs / "layer"
    diff_id, digest = hashlib.sha256(), hashlib.sha256()
    compress = zlib_ng.compressobj(6, wbits=31)
    with temporary.open("wb") as file:

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        for piece in layer:
            diff_id.update(piece)
            write(compress.compress(piece))
            if each_a_member:
                write(compress.flush())
                compress = zlib_ng.compressobj(6, wbits=31)
        write(compress.flush())
        size = file.tell()
    temporary.rename(blobs / digest.hexdigest())
    layers = [
        {"mediaType": f"{_MEDIA}.layer.v1.tar+gzip", "digest": f"sha256:{digest.hexdigest()}", "size": size},
    ]
    config: Document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id.hexdigest()}"]},
    }
    manifest: Document = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": _put(blobs, config, "config"),
        "layers": layers,
    }
    described = _put(blobs, manifest, "manifest") | {"annotations": {"org.opencontainers.image.ref.name": "latest"}}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))


def _put(blobs: Path, document: Document, kind: str) -> Document:
    """Write a document; return its descriptor."""
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": f"{_MEDIA}.{kind}.v1+json", "digest": f"sha256:{digest}", "size": len(data)}
