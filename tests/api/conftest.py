"""An image and the same files in a directory of the host."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import ocifs
from tests.images import Image, Layer, write_layout

_FILES = {
    "etc/motd": b"welcome\n",
    "etc/conf.d/a.conf": b"a = 1\r\n",
    "etc/conf.d/b.conf": b"",
    "etc/conf.d/.hidden.conf": b"h",
    "etc/conf.d/more/c.conf": b"c",
    "usr/lib/x.tar.gz": bytes(range(256)) * 2048,
    "usr/lib/caf\udce9": b"latin",
    "usr/lib/two\nlines": b"2",
    "empty/.keep": b"",
}
_LINKS = {
    "etc/link": "motd",
    "etc/absolute": "/etc/motd",
    "etc/dangling": "nowhere",
    "etc/loop": "loop",
    "etc/round": "conf.d/back",
    "etc/conf.d/back": "../round",
    "lib": "usr/lib",
    "usr/up": "..",
}


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the files, in a directory."""
    root = tmp_path_factory.mktemp("host")
    for name, data in _FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        os.utime(root / name, ns=(0, 1_500_000_000_000_000_000))
    os.link(root / "etc/motd", root / "etc/hard")
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe", 0o600)
    os.chmod(root / "etc/motd", 0o640)
    return root


@pytest.fixture(scope="session")
def layout(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files as an image of one layer, which a second layer leaves as they are."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(host, ".")
    return write_layout(tmp_path_factory.mktemp("image") / "files", Image(layers=(Layer(packed.getvalue()),)))


@pytest.fixture(scope="session")
def image(layout: Path) -> Iterator[ocifs.Image]:
    with ocifs.open(layout) as opened:
        yield opened
