"""A tiny image with a layer of each compression, all that can be seen of it, and every way to damage a file."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from ocifs.errors import OcifsError
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from ocifs.options import Options
from ocifs.store import Store
from tests.images import Files, Image, Layer, layout_files
from tests.tars import file, hardlink, header, pax, symlink

_TEXT = b"The quick brown fox jumps over the lazy dog.\n"

# Without zero blocks at the end, and without padding after the last file, so that no byte is there in vain.
LAYERS = (
    Layer(file(b"d/a", _TEXT, mode=0o640, mtime=7) + symlink(b"s", b"d/a") + file(b"gone", b"gone"), "gzip"),
    Layer(file(b".wh.gone") + pax({b"SCHILY.xattr.user.x": b"1"}) + file(b"d/b", _TEXT * 3, uid=5), "zstd"),
    Layer(hardlink(b"h", b"d/a") + header(b"c", len(_TEXT)) + _TEXT, "tar"),
)

Seen = tuple[dict[bytes, tuple[object, ...]], dict[bytes, bytes | None]]
"""Attributes, names, targets and extended attributes by path; bytes by path, None where an error came instead."""
Outcome = Literal["same", "refused", "wrong"]


def tiny_files() -> Files:
    """Return the files of a layout with the image."""
    return layout_files(Image(LAYERS))


def see(image: os.PathLike[str] | str, store: Store | None = None) -> Seen:
    """Open an image, and return all that there is to see. Raises OcifsError."""
    with open_image(image, Options(store=store or Store(None))) as opened:
        return look(opened.rootfs)


def look(rootfs: Rootfs) -> Seen:
    tree = rootfs.tree
    attributes: dict[bytes, tuple[object, ...]] = {}
    contents: dict[bytes, bytes | None] = {}
    for path, inode in rootfs.walk():
        target = tree.readlink(inode.nid) if stat.S_ISLNK(inode.mode) else None
        attributes[path] = (*inode, tree.xattrs(inode.nid), target)
        if stat.S_ISREG(inode.mode):
            try:
                contents[path] = rootfs.read(inode.nid, inode.size, 0)
            except OcifsError as error:
                _check(error)
                contents[path] = None
    return attributes, contents


def outcome(image: os.PathLike[str] | str, expected: Seen, store: Store | None = None) -> Outcome:
    """Judge what is seen of an image that may be damaged. What is neither the tree nor an OcifsError comes through."""
    try:
        attributes, contents = see(image, store)
    except OcifsError as error:
        _check(error)
        return "refused"
    refused = {path for path, content in contents.items() if content is None}
    whole = {path: expected[1][path] if path in refused else content for path, content in contents.items()}
    if (attributes, whole) != expected:
        return "wrong"
    return "refused" if refused else "same"


def _check(error: OcifsError) -> None:
    assert str(error).isprintable()


def flips(data: bytes) -> Iterator[bytes]:
    """Yield the bytes with the lowest bit of each inverted in turn: of text, that makes other text."""
    for place, byte in enumerate(data):
        yield data[:place] + bytes([byte ^ 1]) + data[place + 1 :]


def cuts(data: bytes) -> Iterator[bytes]:
    """Yield every beginning of the bytes."""
    for size in range(len(data)):
        yield data[:size]


def bits(data: bytes) -> Iterator[bytes]:
    """Yield the bytes with each bit of them inverted in turn."""
    for place in range(8 * len(data)):
        byte = place // 8
        yield data[:byte] + bytes([data[byte] ^ 1 << place % 8]) + data[byte + 1 :]


def outcomes(path: Path, damaged: Iterator[bytes], judge: Callable[[], Outcome]) -> Counter[Outcome]:
    """Put each of `damaged` in the place of a file, and count how it is judged; then all is as it was."""
    whole = path.read_bytes()
    counted: Counter[Outcome] = Counter()
    try:
        for data in damaged:
            path.write_bytes(data)
            counted[judge()] += 1
    finally:
        path.write_bytes(whole)
    return counted
