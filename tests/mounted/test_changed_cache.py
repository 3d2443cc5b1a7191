"""What happens to a mount when its cache does not stay as it was: bytes that change in place, are cut off, or cannot
be read any more. What is read is right, or EIO; what is damaged and mended can be read again."""

import errno
import os
import random
import re
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, layout_files, write_layout
from tests.tars import directory, file, long_name, pax, symlink, tar

_HOLE = 100_000
_SPARSE = bytes(_HOLE) + b"kept in the tree image" + bytes(_HOLE)
_SPARSE_MAP = b"1\n%d\n22\n" % _HOLE
_TEXT = b"".join(b"%d lines, and each is another one\n" % number for number in range(80_000))
_RANDOM = random.Random(5).randbytes(1 << 20)

_NAMES = [
    directory(b"./", mode=0o755),
    directory(b"dir/", mode=0o750, uid=7),
    file(b"dir/text", _TEXT, mtime=1_500_000_000),
    symlink(b"link", b"dir/text"),
    long_name(b"t/" * 900, b"K") + symlink(b"long-link", b"t"),
    pax({b"SCHILY.xattr.user.note": b"a note"}) + file(b"attributed", b"yes"),
    pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"%d" % len(_SPARSE)})
    + file(b"sparse", _SPARSE_MAP.ljust(512, b"\0") + _SPARSE[_HOLE : _HOLE + 22]),
]
_LAYERS = (
    Layer(tar(_NAMES), "gzip"),  # spans with windows
    Layer(tar([file(b"reframed", _RANDOM)]) + bytes(9 << 20), "zstd"),  # spans in the LayerIndex
    Layer(tar([file(b"plain", _RANDOM)]), "tar"),
)

Seen = dict[str, tuple[object, ...]]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("changed") / "image", Image(layers=_LAYERS))


@pytest.fixture
def warm(ocifs: Ocifs, indexed: Path) -> Ocifs:
    """The command with a copy of that cache, which can be damaged."""
    shutil.copytree(indexed, ocifs.cache, dirs_exist_ok=True)
    return ocifs


def contents(path: str) -> bytes | None:
    """Return the bytes of a file, or None if some of them are EIO; no other error will do."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        assert error.errno == errno.EIO  # noqa: PT017 - it may come or not
        return None


def look(mountpoint: Path) -> tuple[Seen, dict[str, bytes | None]]:
    """Return names and attributes, and the bytes of regular files, with nothing left in the caches of the kernel."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    attributes: Seen = {}
    regular: dict[str, bytes | None] = {}
    for parent, directories, files in os.walk(mountpoint, onerror=raise_it):
        for name in [".", *directories, *files]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in listed(path)}
            target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
            attributes[os.path.relpath(path, mountpoint)] = (*status, status.st_mtime_ns, tuple(xattrs.items()), target)
            if stat.S_ISREG(status.st_mode):
                regular[os.path.relpath(path, mountpoint)] = contents(path)
    return attributes, regular


def raise_it(error: OSError) -> None:
    raise error


def listed(path: str) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


_RIGHT = {
    "dir/text": _TEXT,
    "attributed": b"yes",
    "sparse": _SPARSE,
    "reframed": _RANDOM,
    "plain": _RANDOM,
}

Damage = Callable[[bytes], bytes]
_DAMAGES: dict[str, Damage] = {
    "inverted": lambda data: bytes(byte ^ 0xFF for byte in data),
    "one bit of each 61 bytes": lambda data: bytes(byte ^ (place % 61 == 5) for place, byte in enumerate(data)),
    "zeros": lambda data: bytes(len(data)),
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut to nothing": lambda data: b"",
}


def rewrite(path: Path, data: bytes) -> None:
    """Change a file in place."""
    with path.open("r+b") as opened:
        opened.truncate(len(data))
        opened.write(data)


def entries(ocifs: Ocifs, kind: str) -> list[Path]:
    found = sorted((ocifs.cache / "entries").glob(f"{kind}[0-9]-*"))
    assert found
    return found


@contextmanager
def changed(paths: list[Path], damage: Damage) -> Iterator[None]:
    """Have files damaged, for a while."""
    wholes = {path: path.read_bytes() for path in paths}
    for path, whole in wholes.items():
        rewrite(path, damage(whole))
    try:
        yield
    finally:
        for path, whole in wholes.items():
            rewrite(path, whole)


def test_a_tree_image_that_changes_changes_no_mount(warm: Ocifs, image: Path, root: None) -> None:
    """Names, attributes, targets, extended attributes, and the pieces of sparse files that are kept in it."""
    with warm.mounted(image) as mountpoint:
        before = look(mountpoint)
        assert before[1] == _RIGHT
        for name, damage in _DAMAGES.items():
            with changed(entries(warm, "tree"), damage):
                assert look(mountpoint) == before, name
    assert warm.log.read_text() == ""


def test_a_tree_image_that_was_just_made_changes_no_mount_either(warm: Ocifs, image: Path, root: None) -> None:
    for path in entries(warm, "tree"):
        path.unlink()
    with warm.mounted(image) as mountpoint:
        before = look(mountpoint)
        with changed(entries(warm, "tree"), _DAMAGES["cut to nothing"]):
            assert look(mountpoint) == before


def test_a_layer_index_that_changes_gives_the_right_bytes_or_eio(warm: Ocifs, image: Path, root: None) -> None:
    """The windows of gzip, and the spans that are kept in it: each use of them is checked."""
    with warm.mounted(image, "--span-cache", "1MiB") as mountpoint:
        before = look(mountpoint)
        assert before[1] == _RIGHT
        for name, damage in _DAMAGES.items():
            with changed(entries(warm, "layer"), damage):
                attributes, regular = look(mountpoint)
            assert attributes == before[0], name
            read = {path for path, data in regular.items() if data == _RIGHT[path]}
            refused = {path for path, data in regular.items() if data is None}
            assert refused, name
            assert refused <= {"dir/text", "attributed", "reframed"}, name  # the others need nothing of it
            assert read | refused == _RIGHT.keys(), name
        assert look(mountpoint) == before
    said = [line.partition(": ")[2] for line in warm.log.read_text().splitlines()]
    assert said
    assert all(line.startswith("layer sha256:") and line.endswith("the cache was changed or damaged") for line in said)


def sections(entry: bytes) -> dict[str, tuple[int, int]]:
    """Return where the sections of a LayerIndex lie in the file of the cache (docs/formats.md)."""
    footer = len(entry) - 180
    data, toc, summary = struct.unpack_from("<QQQ", entry, footer - 24)
    borders = [data, data + toc, data + toc + summary, footer, len(entry)]
    return dict(zip(["TOC", "summary", "sizes", "footer"], pairwise(borders), strict=True))


@pytest.mark.parametrize("section", ["TOC", "summary", "sizes", "footer"])
def test_what_a_mount_needs_no_more_of_a_layer_index_may_change(
    warm: Ocifs, image: Path, root: None, section: str
) -> None:
    def damage(entry: bytes) -> bytes:
        begin, end = sections(entry)[section]
        assert begin < end
        return entry[:begin] + _DAMAGES["inverted"](entry[begin:end]) + entry[end:]

    with warm.mounted(image, "--span-cache", "1MiB") as mountpoint, changed(entries(warm, "layer"), damage):
        assert look(mountpoint)[1] == _RIGHT
    assert warm.log.read_text() == ""


class Disk:
    """A mount that holds an image and its cache, and can fail: every read of either is EIO then."""

    def __init__(self, mountpoint: Path, daemon: int, blob: Path) -> None:
        self.daemon = daemon
        self.image = mountpoint / "image"
        self.cache = mountpoint / "cache"
        self._blob = blob

    def failing(self) -> AbstractContextManager[None]:
        return changed([self._blob], _DAMAGES["zeros"])


@pytest.fixture
def disk(ocifs: Ocifs, image: Path, indexed: Path, tmp_path: Path, root: None) -> Iterator[Disk]:
    members = [directory(b"cache/", mode=0o700), directory(b"cache/entries/", mode=0o700)]
    for name, data in layout_files(Image(layers=_LAYERS)).items():
        members.append(file(os.fsencode(f"image/{name}"), data))
    for path in (indexed / "entries").iterdir():
        members.append(long_name(os.fsencode(f"cache/entries/{path.name}")) + file(b"entry", path.read_bytes()))
    holder = write_layout(tmp_path / "disk", Image(layers=(Layer(tar(members), "tar"),)))
    blob = max((holder / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    with ocifs.mounted(holder, "--engine", "fuse", "--span-cache", "1MiB") as mountpoint:
        (daemon,) = ocifs.processes()
        yield Disk(mountpoint, daemon, blob)


def test_a_disk_that_fails_is_eio_for_bytes_and_nothing_for_names(ocifs: Ocifs, disk: Disk) -> None:
    with ocifs.mounted(disk.image, "--cache-dir", str(disk.cache), "--span-cache", "1MiB") as mountpoint:
        before = look(mountpoint)
        assert before[1] == _RIGHT
        with disk.failing():
            attributes, regular = look(mountpoint)
        assert attributes == before[0]
        assert regular["sparse"] == _SPARSE  # its bytes lie in the tree image
        assert [path for path, data in regular.items() if data is None]
        assert all(data in (None, _RIGHT[path]) for path, data in regular.items())
        assert look(mountpoint) == before
        (inner,) = set(ocifs.processes()) - {disk.daemon}
    said = [line.partition(f"[{inner}] ERROR: ")[2] for line in ocifs.log.read_text().splitlines()]
    assert any(said)
    assert all(re.fullmatch(r"read: layer sha256:[0-9a-f]{64}: Input/output error|", line) for line in said)
