"""An image of three layers that several reports are about."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.image.opening import Image, open_image
from tests import images
from tests.tars import directory, file, hardlink, header, pax, symlink, tar

PASSWD = b"root:x:0:0::/root:/bin/sh\nbroken\nuser:x:1000:50::/:/bin/sh\n"
LAYERS = (
    [
        directory(b"./", mode=0o755),
        directory(b"etc"),
        file(b"etc/passwd", PASSWD),
        file(b"etc/group", b"root:x:0:\nstaff:x:50:user\n"),
        file(b"etc/issue", b"base", mtime=1_000_000_000),
        directory(b"usr/lib"),
        file(b"usr/lib/lib.so", bytes(3000), mode=0o755),
        hardlink(b"usr/lib/lib.so.1", b"usr/lib/lib.so"),
        symlink(b"lib", b"usr/lib"),
        directory(b"doc"),
        file(b"doc/one", b"1"),
        file(b"doc/two", b"2"),
        directory(b"gone/deep"),
        file(b"gone/deep/file", b"deep"),
        file(b"tree/leaf", b"leaf"),
    ],
    [
        file(b"etc/issue", b"middle!", mtime=1_500_000_000),
        file(b".wh.gone"),
        file(b"lib/new", bytes(5000), uid=1000, gid=50, mode=0o4755),
        file(b"tree", b"now a file"),
        hardlink(b"etc/lib", b"usr/lib/lib.so"),
        file(b"etc/.dotted"),
    ],
    [
        file(b"etc/.wh.issue"),
        file(b"doc/.wh..wh..opq"),
        file(b"doc/two", b"two again"),
        pax({b"SCHILY.xattr.user.note": b"x"}) + file(b"noted", b"n"),
        directory(b"gone", mode=0o1777),
        header(b"null", flag=b"3", mode=0o666, major=1, minor=3),
        header(b"pipe", flag=b"6"),
        file(b"caf\xc3\xa9", b"x"),
        file(b"no\xfftext\n", b"x"),
        directory(b"empty"),
    ],
)


@pytest.fixture(scope="session")
def layered_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = tuple(images.Layer(tar(members)) for members in LAYERS)
    return images.write_layout(tmp_path_factory.mktemp("layered") / "layout", images.Image(layers))


@pytest.fixture(scope="session")
def layered(layered_layout: Path) -> Iterator[Image]:
    with open_image(layered_layout) as opened:
        yield opened
