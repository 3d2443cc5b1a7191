"""A tar that was written holds what the image says, and always the same bytes."""

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.erofs.writer import compile_tree
from ocifs.errors import LimitError, NotFoundError, OcifsError
from ocifs.export.archive import export_tar, write_tar
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from ocifs.limits import Limits
from ocifs.options import Options
from ocifs.store import Kind, Store, Writer
from tests.erofs.trees import directory as node_directory
from tests.erofs.trees import special
from tests.export.snapshot import of_directory, of_image
from tests.images import Image, Layer, write_layout
from tests.mounted.posix_image import SPARSE
from tests.tars import file, hardlink, long_name, pax, tar


def written(rootfs: Rootfs, path: str = "/", prefix: bytes = b"") -> bytes:
    out = io.BytesIO()
    assert list(write_tar(rootfs, path, out, prefix=prefix)) == []
    return out.getvalue()


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_as_a_layer_it_is_the_same_image(posix: Rootfs, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "again", Image(layers=(Layer(written(posix), "tar"),)))
    with open_image(layout) as image:
        assert of_image(image.rootfs) == of_image(posix)
        assert written(image.rootfs) == written(posix)


def test_gnu_tar_extracts_what_the_image_says(posix: Rootfs, tmp_path: Path, root: None) -> None:
    assert list(export_tar(posix, "/", str(tmp_path / "out.tar"))) == []
    out = tmp_path / "out"
    out.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=no-timestamp", "-p"]
    ran = subprocess.run(["tar", *options, "-xf", tmp_path / "out.tar", "-C", out], capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert of_directory(out) == of_image(posix)
    assert (out / "sparse").stat().st_blocks * 512 < len(SPARSE) // 4


def test_the_same_bytes_however_the_layers_are_made(tmp_path: Path) -> None:
    members = [[file(b"b", b"bb" * 700), file(b"a", b"a" * 900)], [file(b"c", mtime=77), hardlink(b"d", b"b")]]
    tars = []
    for number, (layers, compression) in enumerate(
        [(members, "gzip"), (members, "zstd"), ([[*members[0], *members[1]]], "tar")]
    ):
        image = Image(layers=tuple(Layer(tar(layer), compression) for layer in layers))  # type: ignore[arg-type]
        with open_image(write_layout(tmp_path / str(number), image)) as opened:
            tars.append(written(opened.rootfs))
    assert tars[0] == tars[1] == tars[2]
    assert names(tars[0]) == [".", "a", "b", "c", "d"]


def test_members_come_by_name_each_directory_before_its_own(posix: Rootfs) -> None:
    data = written(posix)
    found = names(data)[1:]
    assert found == sorted(found, key=lambda name: name.encode(errors="surrogateescape").split(b"/"))


def test_below_a_path_and_with_a_prefix(posix: Rootfs) -> None:
    assert names(written(posix, "/dir")) == [".", "inside"]
    assert names(written(posix, "/dir", b"a/./b//")) == ["a/b", "a/b/inside"]
    with tarfile.open(fileobj=io.BytesIO(written(posix, "/", b"top"))) as archive:
        assert archive.getmember("top/regular").linkname == "top/again"
        assert archive.getmember("top/link").linkname == "regular"


@pytest.mark.parametrize("prefix", [b"/abs", b"..", b"a/../b"])
def test_a_prefix_that_leads_elsewhere(posix: Rootfs, tmp_path: Path, prefix: bytes) -> None:
    with pytest.raises(OcifsError, match="prefix"):
        export_tar(posix, "/", str(tmp_path / "out"), prefix=prefix)
    assert os.listdir(tmp_path) == []


def test_a_path_that_is_no_directory(posix: Rootfs, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        export_tar(posix, "/regular", str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        ((0, 512),),
        ((512, 512),),
        ((9728, 272),),
        ((0, 512), (1024, 512), (9728, 272)),
        ((3, 5), (700, 30), (9999, 1)),
    ],
)
def test_sparse_files(tmp_path: Path, pieces: tuple[tuple[int, int], ...]) -> None:
    content = bytearray(10_000)
    for start, length in pieces:
        content[start : start + length] = bytes(range(1, 256))[:length].ljust(length, b"x")
    sparse_map = b"".join(b"%d\n" % number for number in (len(pieces), *(n for piece in pieces for n in piece)))
    stored = b"".join(content[start : start + length] for start, length in pieces)
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"10000"}
    member = pax(records) + file(b"sparse", sparse_map.ljust(512, b"\0") + stored)
    with open_image(write_layout(tmp_path / "image", Image(layers=(Layer(tar([member])),)))) as image:
        data = written(image.rootfs)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-x", "-C", tmp_path / "out"], input=data, check=True)
    assert (tmp_path / "out/sparse").read_bytes() == content
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        extracted = archive.extractfile("sparse")
        assert extracted
        assert extracted.read() == content


@pytest.fixture
def with_a_socket() -> Iterator[Rootfs]:
    """A tree that no tar could have given."""
    root = node_directory({b"socket": special(0o140644), b"x": node_directory()})
    image = compile_tree(root, [], lambda layer, size, offset: b"")

    def build(out: Writer) -> None:
        out.write(image)

    stored = Store(None).get(Kind("tree", 1), "none", build)
    with Rootfs(stored, []) as rootfs:
        yield rootfs
    stored.close()


def test_a_socket_is_told_of(with_a_socket: Rootfs) -> None:
    out = io.BytesIO()
    losses = [(loss.name, count, first) for loss, count, first in write_tar(with_a_socket, "/", out)]
    assert losses == [("SOCKET", 1, b"/socket")]
    assert names(out.getvalue()) == [".", "x"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(output=4096), "a tar of more than 4096 bytes: over the limit output=4KiB;"),
        (Limits(output_headers=1024), "more than 1024 bytes of extended headers: over the limit output-headers=1KiB;"),
    ],
)
def test_what_is_written_is_bounded(limits: Limits, message: str, tmp_path: Path) -> None:
    long = b"d/" * 90 + b"f"
    members = [file(b"a", b"a" * 9000), long_name(long) + file(b"f"), long_name(long, b"K") + hardlink(b"l", b"f")]
    layout = write_layout(tmp_path / "image", Image((Layer(tar(members)),)))
    with open_image(layout) as image:
        export_tar(image.rootfs, "/", str(tmp_path / "whole.tar"))
    with open_image(layout, Options(limits=limits)) as image, pytest.raises(LimitError) as caught:
        export_tar(image.rootfs, "/", str(tmp_path / "out.tar"))
    assert message in str(caught.value)
    assert not (tmp_path / "out.tar").exists()
