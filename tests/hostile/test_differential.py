"""Stacks of layers of all kinds of entries: what ocifs shows is what a naive model has, and what `umoci unpack` writes.

umoci is given no entry named `.wh.`, `.wh..` or `.wh...`. Where it may do otherwise:

- a file is in the way of a directory that no entry describes: older versions refuse, newer ones do as ocifs;
- directories that no entry describes: they have the time of the unpacking, and so has the directory they were made in;
  in a setgid directory they are setgid, as the kernel makes them;
- directories of which whiteouts removed some and kept some: they have the time of the unpacking.
"""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError
from ocifs.image.opening import open_image
from ocifs.options import Options
from tests.depth import depth
from tests.hostile.model import Member, Model, RefusedError, Seen
from tests.images import Image, Layer, write_layout
from tests.tars import pax

# Few names, so that entries meet; odd ones now and then.
_PLAIN = [b"a", b"b", b"c"]
_ODD = [b"\xff", b"\x1b[31m", b"n\nl", b" ", b".wh", b"wh.", b"x.wh.y", b"a" * 90, b".wi.a", b"\xc3\xb1"]
_NAME = st.one_of(*[st.sampled_from(_PLAIN)] * 9, st.sampled_from(_ODD))
_TARGETS = [b"a", b"b/c", b"/a", b"/", b".", b"..", b"../b", b"../../../c", b"a/../b", b"c/", b"no/such", b"./a//b"]
_TARGETS += [b"no/../a", b"no/../../b"]
_KINDS = ["file", "file", "file", "directory", "directory", "directory", "symlink", "symlink", "hardlink", "hardlink"]
_KINDS += ["whiteout", "whiteout", "opaque", "fifo", "device"]


@st.composite
def _paths(draw: st.DrawFn, last: bytes = b"") -> bytes:
    """Return a path, most often a plain one; `last` is put before its last name."""
    names = draw(st.lists(_NAME, min_size=1, max_size=4))
    names[-1] = last + names[-1] if last != b".wh..wh..opq" else last
    path = b"/".join(names)
    form = draw(st.integers(0, 15))
    if form == 0:
        return b"/" + path
    if form == 1:
        return b"./" + path.replace(b"/", b"//")
    if form == 2:
        return b"../" + path
    if form == 3:
        return b"c/../" + path
    return path


@st.composite
def stacks(draw: st.DrawFn) -> list[list[Member]]:
    """Return layers. Hard links lead to what is there, as a rule."""
    model = Model()
    layers: list[list[Member]] = []
    serial = 0
    for _ in range(draw(st.integers(1, 3))):
        layers.append([])
        model.begin_layer()
        for _ in range(draw(st.integers(0, 9))):
            serial += 1
            layers[-1].append(_member(draw, model, serial))
            try:
                model.apply(layers[-1][-1])
            except RefusedError:
                return layers
    return layers


def _member(draw: st.DrawFn, model: Model, serial: int) -> Member:
    kind = draw(st.sampled_from(_KINDS))
    if kind in {"whiteout", "opaque"}:
        path = draw(_paths(b".wh." if kind == "whiteout" else b".wh..wh..opq"))
        assert path.rpartition(b"/")[2] not in {b".wh.", b".wh..", b".wh..."}
        return Member("file", path)
    path = draw(_paths())
    mode = draw(st.sampled_from([0o644, 0o755, 0o600, 0o4755, 0o2711, 0o1777]))
    xattrs = ((b"user.x", b"%d" % serial),) if kind in {"file", "directory"} and draw(st.integers(0, 7)) == 0 else ()
    target = data = b""
    if kind == "symlink":
        target = draw(st.sampled_from(_TARGETS))
    elif kind == "hardlink":
        there = sorted(b"/".join(names) for names, node in model.tree.items() if node.kind != "directory")
        misled = not there or draw(st.integers(0, 9)) == 0
        target = draw(_paths() if misled else st.sampled_from(there))
    elif kind == "file":
        data = b"%d" % serial * draw(st.sampled_from([0, 1, 1, 400]))
    elif kind == "directory" and draw(st.booleans()):
        path += b"/"
    elif kind == "directory" and draw(st.integers(0, 7)) == 0:
        path = b""  # the root
    zeros = draw(st.sampled_from([0, 0, 0, 25]))
    return Member(kind, path, mode, serial, 1_000_000_000 + serial, data, target, xattrs, zeros)


def modelled(layers: list[list[Member]]) -> tuple[dict[bytes, Seen] | None, Model]:
    """Return the tree, None if it is refused; and the model."""
    model = Model()
    try:
        for members in layers:
            model.begin_layer()
            for member in members:
                model.apply(member)
    except RefusedError:
        return None, model
    return model.seen(), model


def written(layers: list[list[Member]], place: Path, *, before: bytes = b"") -> Path:
    """Write the image. Each layer begins with `before`, and ends in a pax header that no member follows."""
    last = pax({b"path": b"lost"}) + bytes(1024)
    tars = [before + b"".join(member.tar() for member in members) + last for members in layers]
    return write_layout(place, Image(tuple(Layer(data, "tar") for data in tars)))


def by_ocifs(image: Path) -> dict[bytes, Seen] | None:
    try:
        opened = open_image(image, Options())
    except InvalidImageError:
        return None
    with opened:
        rootfs = opened.rootfs
        tree = rootfs.tree
        paths: dict[int, list[bytes]] = {}
        for path, inode in rootfs.walk():
            paths.setdefault(inode.nid, []).append(path)
        found = {}
        for path, inode in rootfs.walk():
            content = b""
            if stat.S_ISREG(inode.mode):
                content = rootfs.read(inode.nid, inode.size, 0)
            elif stat.S_ISLNK(inode.mode):
                content = tree.readlink(inode.nid)
            elif stat.S_ISCHR(inode.mode):
                content = b"%d:%d" % (os.major(inode.rdev), os.minor(inode.rdev))
            seconds = inode.mtime_ns // 10**9
            links = tuple(sorted(paths[inode.nid]))
            assert len(links) == inode.nlink
            found[path] = Seen(inode.mode, inode.uid, content, tree.xattrs(inode.nid), seconds, links)
        return found


def by_umoci(image: Path, bundle: Path) -> dict[bytes, Seen] | None:
    command = ["umoci", "unpack", "--image", f"{image}:latest", str(bundle)]
    if subprocess.run(command, capture_output=True, check=False, timeout=60).returncode:
        return None
    root = os.fsencode(bundle / "rootfs")
    inodes: dict[int, list[bytes]] = {}
    paths = [b""]
    for directory, directories, files in os.walk(root):
        paths += [os.path.relpath(directory + b"/" + name, root) for name in directories + files]
    for path in paths:
        inodes.setdefault(os.lstat(root + b"/" + path).st_ino, []).append(path)
    found = {}
    for path in paths:
        place = root + b"/" + path if path else root
        status = os.lstat(place)
        content = b""
        if stat.S_ISREG(status.st_mode):
            content = Path(os.fsdecode(place)).read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(place)
        elif stat.S_ISCHR(status.st_mode):
            content = b"%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
        names = os.listxattr(place, follow_symlinks=False)
        xattrs = {os.fsencode(name): os.getxattr(place, name, follow_symlinks=False) for name in names}
        links = tuple(sorted(inodes[status.st_ino]))
        found[path] = Seen(status.st_mode, status.st_uid, content, xattrs, status.st_mtime_ns // 10**9, links)
    return found


def unpacked(found: dict[bytes, Seen], model: dict[bytes, Seen]) -> dict[bytes, Seen]:
    """Return what is found without that in which `umoci unpack` may differ from the model."""
    without = {}
    for path, seen in found.items():
        expected = model.get(path, seen)
        if expected.mtime is None:
            inherited = stat.S_ISGID & ~expected.mode
            without[path] = seen._replace(mtime=None, mode=seen.mode & ~inherited)
        else:
            without[path] = seen
    return without


@given(stacks())
@settings(max_examples=depth(400, 20_000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ocifs_is_the_model(layers: list[list[Member]]) -> None:
    model, _ = modelled(layers)
    event("refused" if model is None else "a tree")
    with tempfile.TemporaryDirectory() as place:
        # umoci refuses global headers, which other tools ignore.
        ignored = pax({b"uid": b"77", b"mtime": b"1", b"path": b"lost"}, b"g")
        found = by_ocifs(written(layers, Path(place) / "image", before=ignored))
    assert found == (model and {path: seen._replace(mtime=seen.mtime or 0) for path, seen in model.items()})


@given(stacks())
@settings(max_examples=depth(200, 5000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_umoci_is_the_model(root: None, layers: list[list[Member]]) -> None:
    if shutil.which("umoci") is None:
        pytest.skip("umoci is missing")
    tree, model = modelled(layers)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "far/from/others"
        found = by_umoci(written(layers, place / "image"), place / "bundle")
    if found is None or tree is None:
        assert found is tree or model.displaced
    else:
        expected = model.seen(stirred=False)
        assert unpacked(found, expected) == expected
