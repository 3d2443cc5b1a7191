"""Every limit: passing it is an error that names it, and with it raised the same image opens."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard
from msgspec.structs import asdict

from ocifs.bundle.volumes import find_volumes
from ocifs.errors import LimitError
from ocifs.export.archive import write_tar
from ocifs.image.opening import open_image
from ocifs.image.passwd import Accounts
from ocifs.limits import Limits, in_units
from ocifs.options import Options
from ocifs.reader import BytesReader
from ocifs.toc import ReaderForward, scan
from tests import images
from tests.images import Image, Layer, add_image, add_index, write_archive, write_directory, write_layout
from tests.tars import directory, file, long_name, pax, symlink, tar
from tests.tocs import zstd_chunked

_FILE = tar([file(b"f", bytes(4096))])
_ENTRIES = scan(ReaderForward(BytesReader(_FILE)), warn=str)  # type: ignore[arg-type]
_FILE_OF_ZEROS = b'{"name": "f", "type": "reg", "mode": 420, "size": 4096, "chunkSize": 4096, "chunkType": "zeros"}'
_TOC = b'{"version": 1, "entries": [%s]}' % _FILE_OF_ZEROS
_SPARSE = {b"GNU.sparse.map": b"0,1", b"GNU.sparse.numblocks": b"1", b"GNU.sparse.size": b"5"}


class _Wide(Layer):
    """A zstd layer of one frame with a window of 256 MiB."""

    @property
    def blob(self) -> bytes:
        out = io.BytesIO()
        parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
        with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(out, closefd=False) as writer:
            writer.write(self.tar)
        return out.getvalue()


def _layout(*layers: Layer) -> Callable[[Path], Path]:
    return lambda place: write_layout(place, Image(layers))


def _nested(place: Path) -> Path:
    files: images.Files = {"oci-layout": images.LAYOUT_VERSION}
    inner = add_index(files, [add_image(files, Image(platform={"os": "linux", "architecture": "amd64"}))])
    files["index.json"] = images.to_json(images.index_of([add_index(files, [inner])]))
    return write_directory(place, files)


def _archive(place: Path) -> Path:
    place.mkdir()
    return write_archive(place / "image.tar", images.layout_files(Image()))


def _with_volumes(place: Path) -> Path:
    members = [file(b"a/x", b"123"), file(b"b/x", b"45"), file(b"x", b"6")]
    return write_layout(place, Image((Layer(tar(members)),), config={"config": {"Volumes": {"/a": {}, "/b": {}}}}))


# The limit, set so that it just suffices and is raised or lowered by one; and an image that comes up to it.
IMAGES: dict[str, tuple[int, Callable[[Path], Path]]] = {
    "document": (0, _layout(Layer(_FILE))),
    "indexes": (2, _nested),
    "layers": (2, _layout(Layer(_FILE), Layer(_FILE))),
    "members": (5, _archive),
    "uncompressed": (len(_FILE), _layout(Layer(_FILE))),
    "image_uncompressed": (2 * len(_FILE), _layout(Layer(_FILE), Layer(_FILE))),
    "ratio": (0, _layout(Layer(_FILE))),
    "ratio_from": (len(_FILE), _layout(Layer(_FILE))),
    "zstd_window": (1 << 28, _layout(_Wide(_FILE, "zstd"))),
    "entries": (3, _layout(Layer(tar([file(b"%d" % n) for n in range(3)])))),
    "image_entries": (3, _layout(Layer(tar([file(b"a")])), Layer(tar([file(b"d/b")])))),  # and d
    "image_toc": (2 * len(msgspec.msgpack.encode(_ENTRIES)), _layout(Layer(_FILE), Layer(_FILE))),
    "paths": (8, _layout(Layer(tar([file(b"a"), file(b"d/b")])))),  # /a /d /d/b
    "extended_header": (601, _layout(Layer(tar([long_name(b"d/" * 300), file(b"f")])))),
    "extended_headers": (16, _layout(Layer(tar([pax({b"uid": b"1"}), file(b"f"), pax({b"uid": b"2"}), file(b"g")])))),
    "xattrs": (13, _layout(Layer(tar([pax({b"SCHILY.xattr.user.name": b"1234"}), file(b"f")])))),
    "toc": (len(_TOC), _layout(zstd_chunked(_FILE, alter=lambda toc: _TOC))),
    "sparse_pieces": (
        1,
        _layout(Layer(tar([pax(_SPARSE), file(b"f", b"x")]))),
    ),
    "symlink_steps": (
        4,
        _layout(Layer(tar([directory(b"a/b"), symlink(b"l", b"a/b"), file(b"l/1"), file(b"x"), file(b"l/2")]))),
    ),
    "output": (2048, _layout(Layer(tar([file(b"empty")])))),  # the root, the file, two blocks at the end
    "output_headers": (1024, _layout(Layer(tar([long_name(b"n" * 150), file(b"n")])))),  # header and data of a pax one
    "accounts": (7, _layout(Layer(tar([file(b"etc/passwd", b"root:x:")])))),
    "volumes": (2, _with_volumes),
    "volume_size": (5, _with_volumes),
}


def test_no_limit_is_left_out() -> None:
    assert {*IMAGES, "spool"} == set(asdict(Limits()))  # tests/cli/test_stdin.py has spool


def _enough(name: str, path: Path) -> dict[str, int]:
    """Return limits that the image just keeps."""
    enough, _ = IMAGES[name]
    if name == "document":
        enough = max(file.stat().st_size for file in path.rglob("*") if _is_document(file))
    elif name == "ratio":
        blob = len(Layer(_FILE).blob)
        return {"ratio": -(-len(_FILE) // blob), "ratio_from": 1}
    elif name == "ratio_from":
        return {"ratio": 1, "ratio_from": enough}
    return {name: enough}


def _is_document(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (ValueError, OSError):
        return False
    return True


def _open(path: Path, limits: Limits) -> None:
    with open_image(str(path), Options(limits=limits, toc="verify")) as opened:
        Accounts.of(opened.rootfs, limits)
        find_volumes(opened.resolved.config.config.volumes, opened.rootfs, limits, pytest.fail, readonly=True)
        write_tar(opened.rootfs, "/", io.BytesIO())
        for _, inode in opened.rootfs.walk():
            if inode.size and inode.mode & 0o170000 == 0o100000:
                assert len(opened.rootfs.read(inode.nid, inode.size, 0)) == inode.size


@pytest.mark.parametrize("name", IMAGES)
def test_it_is_kept_and_named(name: str, tmp_path: Path) -> None:
    path = IMAGES[name][1](tmp_path / "image")
    enough = _enough(name, path)
    _open(path, Limits(**enough))
    with pytest.raises(LimitError) as caught:
        _open(path, Limits(**{**enough, name: enough[name] - 1}))
    message = str(caught.value)
    if name == "sparse_pieces":  # what is left of it
        assert "the layer has 0 left" in message
    elif name == "ratio_from":  # says from where on there is a ratio
        assert "limit ratio=1;" in message
    else:
        assert f"over the limit {Limits(**{name: enough[name] - 1}).setting(name)};" in message
    assert message.endswith("if you trust the image, raise it with --limit")
    assert message.isprintable()


@pytest.mark.parametrize("window", [0, 1000, (1 << 28) - 1, 1 << 28, 1 << 31, 1 << 32, 1 << 70])
def test_windows(tmp_path: Path, window: int) -> None:
    path = write_layout(tmp_path / "image", Image((_Wide(_FILE, "zstd"),)))
    assert zstandard.get_frame_parameters(_Wide(_FILE).blob).window_size == 1 << 28
    if window < 1 << 28:
        with pytest.raises(LimitError, match="requires a window of 256MiB: over the limit zstd-window="):
            _open(path, Limits(zstd_window=window))
    else:
        _open(path, Limits(zstd_window=window))


@pytest.mark.parametrize("value", [0, 1, 1 << 63, 1 << 80])
def test_any_number_is_a_limit(tmp_path: Path, value: int) -> None:
    """Most refuse the image with their name; none ends otherwise."""
    path = write_layout(tmp_path / "image", Image((Layer(_FILE), Layer(_FILE, "zstd"), Layer(_FILE, "tar"))))
    for name in IMAGES:
        try:
            _open(path, Limits(**{name: value}))
        except LimitError as error:
            told = str(error)
        else:
            continue
        assert "over the limit " in told


def test_settings() -> None:
    assert (Limits().setting("zstd_window"), Limits().setting("symlink_steps")) == (
        "zstd-window=128MiB",
        "symlink-steps=67108864",
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1KiB"), (64 << 30, "64GiB"), (1 << 50, "1024TiB")]
)
def test_units(value: int, text: str) -> None:
    assert in_units(value) == text
