"""An EROFS file that was written is mounted by the kernel, which sees what the image says."""

import io
import os
import random
from pathlib import Path

import pytest

from ocifs.errors import LimitError, NotFoundError
from ocifs.export.archive import write_tar
from ocifs.export.erofs import export_erofs
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from ocifs.limits import Limits
from ocifs.options import Options
from tests.erofs.kernel import mounted
from tests.export.snapshot import of_directory, of_image
from tests.images import Image, Layer, write_layout
from tests.tars import file, hardlink, pax, tar


@pytest.mark.parametrize("path", ["/", "/dir"])
def test_the_kernel_sees_what_the_image_says(posix: Rootfs, tmp_path: Path, path: str) -> None:
    assert list(export_erofs(posix, path, str(tmp_path / "image"))) == []
    with mounted(tmp_path / "image", tmp_path / "mnt"):
        assert of_directory(tmp_path / "mnt") == of_image(posix, path)


def test_it_holds_little_more_than_the_files(posix: Rootfs, tmp_path: Path) -> None:
    export_erofs(posix, "/", str(tmp_path / "image"))
    content = sum(len(seen.content) for seen in of_image(posix).values())
    metadata = 128 * posix.tree.inode_count
    assert (tmp_path / "image").stat().st_blocks * 512 < content + metadata


def test_the_same_bytes_however_the_layers_are_compressed(tmp_path: Path) -> None:
    layer = tar([file(b"b", b"bb" * 700), file(b"a", b"a" * 900), hardlink(b"c", b"a")])
    files = []
    for number, compression in enumerate(("gzip", "zstd", "tar")):
        layout = write_layout(tmp_path / f"image{number}", Image(layers=(Layer(layer, compression),)))  # type: ignore[arg-type]
        with open_image(layout) as image:
            export_erofs(image.rootfs, "/", str(tmp_path / str(number)))
        files.append((tmp_path / str(number)).read_bytes())
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("seed", range(6))
def test_sparse_files_of_any_shape(tmp_path: Path, seed: int) -> None:
    """Some of their pieces lie in the tree image of the image, some in its layer."""
    random_ = random.Random(seed)
    members = []
    for number in range(6):
        size = random_.randrange(1, 2_000_000)
        cuts = sorted(random_.sample(range(size), min(size, 2 * random_.randrange(1, 20)) // 2 * 2))
        pieces = [(start, end - start) for start, end in zip(cuts[::2], cuts[1::2], strict=True)]
        sparse_map = "\n".join(map(str, (len(pieces), *(n for piece in pieces for n in piece)))).encode() + b"\n"
        records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"%d" % size}
        stored = random_.randbytes(sum(length for _, length in pieces))
        members.append(pax(records) + file(b"%d" % number, sparse_map + bytes(-len(sparse_map) % 512) + stored))
    with open_image(write_layout(tmp_path / "image", Image(layers=(Layer(tar(members)),)))) as image:
        export_erofs(image.rootfs, "/", str(tmp_path / "out"))
        with mounted(tmp_path / "out", tmp_path / "mnt"):
            assert of_directory(tmp_path / "mnt") == of_image(image.rootfs)
        out = io.BytesIO()
        write_tar(image.rootfs, "/", out)
        with open_image(write_layout(tmp_path / "again", Image(layers=(Layer(out.getvalue()),)))) as again:
            assert of_image(again.rootfs) == of_image(image.rootfs)


def test_an_image_of_nothing(tmp_path: Path) -> None:
    with open_image(write_layout(tmp_path / "image", Image(layers=(Layer(tar([])),)))) as image:
        export_erofs(image.rootfs, "/", str(tmp_path / "out"))
        with mounted(tmp_path / "out", tmp_path / "mnt"):
            assert of_directory(tmp_path / "mnt") == of_image(image.rootfs)
    assert (tmp_path / "out").stat().st_size == 4096


def test_a_path_that_is_no_directory(posix: Rootfs, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        export_erofs(posix, "/regular", str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


def test_what_is_written_is_bounded(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "image", Image(layers=(Layer(tar([file(b"a", b"a" * 9000)])),)))
    with open_image(layout, Options(limits=Limits(output=8 << 10))) as image, pytest.raises(LimitError) as caught:
        export_erofs(image.rootfs, "/", str(tmp_path / "out"))
    assert "over the limit output=8KiB;" in str(caught.value)
    assert not (tmp_path / "out").exists()
