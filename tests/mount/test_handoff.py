"""Opening a rootfs in another process, from open files."""

import gzip
import os
from pathlib import Path

from ocifs.image.opening import open_image
from ocifs.layer.span_cache import SpanCache
from ocifs.mount.handoff import Handoff
from tests.images import Image, Layer, docker_files, write_layout
from tests.images import tar as plain_tar
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


def test_a_handoff_from_a_compressed_archive(tmp_path: Path) -> None:
    saved = docker_files((Image((Layer(plain_tar({"name": b"content"}), "tar"), Layer())), ["app:1"]))
    (tmp_path / "saved.tar.gz").write_bytes(gzip.compress(plain_tar(dict(saved))))
    with open_image(str(tmp_path / "saved.tar.gz")) as image:
        handoff = Handoff.of(image.rootfs)
        copies = {fd: os.dup(fd) for fd in handoff.fds()}
        try:
            with handoff.renumbered(copies).open(SpanCache()) as other:
                assert other.open("name").read() == b"content"
        finally:
            for fd in copies.values():
                os.close(fd)
