"""Opening a rootfs in another process, from open files."""

import os
from pathlib import Path

from ocifs.image.opening import open_image
from ocifs.layer.span_cache import SpanCache
from ocifs.mount.handoff import Handoff
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar


def test_a_handoff_opens_the_same_rootfs_from_other_descriptors(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "image", Image((Layer(tar([file(b"name", b"content")])),)))
    with open_image(str(layout)) as image:
        handoff = Handoff.of(image.rootfs)
        copies = {fd: os.dup(fd) for fd in handoff.fds()}
        try:
            moved = handoff.renumbered(copies)
            assert moved.fds() == set(copies.values())
            with moved.open(SpanCache()) as other:
                assert other.open("name").read() == b"content"
        finally:
            for fd in copies.values():
                os.close(fd)
