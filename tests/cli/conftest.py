"""Images that several of these tests look into."""

from pathlib import Path

import pytest

from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, hardlink, header, pax, symlink, tar

_MEMBERS = [
    directory(b"./", mode=0o755),
    directory(b"etc/", mtime=1_000_000_000),
    file(b"etc/release", b"name=demo\n", mtime=1_000_000_000),
    file(b"etc/.hidden", b"dotted"),
    symlink(b"etc/link", b"release"),
    symlink(b"etc/absolute", b"/etc/release"),
    hardlink(b"etc/again", b"etc/release"),
    header(b"null", flag=b"3", mode=0o666, major=1, minor=3),
    file(b"two\nlines\x1b[31m", b"odd name"),
    file(b"caf\xe9", b"latin"),
    pax({b"SCHILY.xattr.user.note": b"noted"}) + file(b"big", bytes(range(256)) * 4096, mode=0o755),
]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A layout with one image."""
    return write_layout(tmp_path / "demo", Image(layers=(Layer(tar(_MEMBERS)), Layer(compression="zstd"))))
