"""An image of three layers, open, and the trees of what they change."""

from collections.abc import Iterator
from contextlib import ExitStack, chdir
from pathlib import Path

import pytest

from ocifs.image.opening import Image, open_image
from ocifs.report.overlay import Overlay
from tests import images
from tests.tars import directory, file, symlink, tar

HOSTILE = b"[red]\x1b[31m\n\xff"
LAYERS = (
    [
        directory(b"etc"),
        file(b"etc/issue", b"base\n"),
        file(b"etc/old", b"old"),
        directory(b"bin"),
        file(b"bin/tool", b"\x7fELF\0" + bytes(100)),
        symlink(b"link", b"bin/tool"),
        file(HOSTILE, b"\x1b[2Jcleared"),
    ],
    [file(b"etc/issue", b"middle\n"), file(b"etc/.wh.old"), file(b"etc/new/deep", b"deep")],
    [file(b"top", b"top\n")],
)
HISTORY = [
    {"created": "2026-01-01T00:00:00Z", "created_by": "/bin/sh -c #(nop) ADD file:abc in /"},
    {"created_by": "CMD x", "empty_layer": True},
    {"created_by": "RUN [bold]change\x1b[31m"},
    {"created_by": "COPY top /"},
]


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = tuple(images.Layer(tar(members)) for members in LAYERS)
    where = tmp_path_factory.mktemp("explored") / "layout"
    return images.write_layout(where, images.Image(layers, config={"history": HISTORY}))


@pytest.fixture(scope="session")
def image(layout: Path) -> Iterator[Image]:
    with ExitStack() as stack:
        with chdir(layout.parent):  # so that the name is short enough for the screen
            opened = stack.enter_context(open_image(Path(layout.name)))
        yield opened


@pytest.fixture(scope="session")
def overlay(image: Image) -> Overlay:
    return Overlay([image.changes(number) for number in range(3)])
