"""A directory that was written is what the image says, below any path, in any circumstances, or not there."""

import errno
import os
import random
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocifs.errors import InvalidImageError, LimitError, NotFoundError, OcifsError
from ocifs.export.directory import export_directory
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from ocifs.limits import Limits
from ocifs.options import Options
from tests.export.snapshot import Seen, of_directory, of_image
from tests.faults import refusing
from tests.images import Image, Layer, write_layout
from tests.mounted.posix_image import SPARSE
from tests.tars import directory, file, hardlink, header, long_name, pax, symlink, tar

if TYPE_CHECKING:
    from collections.abc import Callable


def opened(path: Path, *layers: list[bytes]) -> Rootfs:
    return open_image(write_layout(path, Image(layers=tuple(Layer(tar(members)) for members in layers)))).rootfs


def test_everything_is_as_the_image_says(posix: Rootfs, tmp_path: Path, root: None) -> None:
    assert list(export_directory(posix, "/", str(tmp_path / "out"))) == []
    assert of_directory(tmp_path / "out") == of_image(posix)
    assert os.listdir(tmp_path) == ["out"]


def test_holes_stay_holes(posix: Rootfs, tmp_path: Path) -> None:
    export_directory(posix, "/", str(tmp_path / "out"))
    status = (tmp_path / "out/sparse").stat()
    assert status.st_size == len(SPARSE)
    assert status.st_blocks * 512 < len(SPARSE) // 4


def test_below_a_path(posix: Rootfs, tmp_path: Path, root: None) -> None:
    export_directory(posix, "dir", str(tmp_path / "out"))
    assert of_directory(tmp_path / "out") == of_image(posix, "/dir")


@pytest.mark.parametrize("path", ["/none", "/regular", "/link", "/dir/inside/"])
def test_a_path_that_is_no_directory(posix: Rootfs, tmp_path: Path, path: str) -> None:
    with pytest.raises(NotFoundError):
        export_directory(posix, path, str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


def test_an_empty_directory_is_replaced_and_a_symlink_to_one_is_followed(posix: Rootfs, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    export_directory(posix, "/dir", str(tmp_path / "link") + "/")
    assert (tmp_path / "out/inside").read_bytes() == b"inside"
    assert (tmp_path / "link").is_symlink()


def test_layers_in_any_order(tmp_path: Path) -> None:
    """Files of several layers, many spans, and names that go the other way than the data."""
    random_ = random.Random(5)
    contents = {b"%03d" % number: random_.randbytes(random_.randrange(90_000)) for number in range(120)}
    names = [*contents]
    random_.shuffle(names)
    layers = [[file(name, contents[name]) for name in names[start::3]] for start in range(3)]
    export_directory(opened(tmp_path / "image", *layers), "/", str(tmp_path / "out"))
    assert {path.name.encode(): path.read_bytes() for path in (tmp_path / "out").iterdir()} == contents


def test_what_the_target_s_directory_hands_down_does_not_count(posix: Rootfs, tmp_path: Path, root: None) -> None:
    acl = posix.tree.xattrs(posix.lookup("/acl"))[b"system.posix_acl_access"]
    os.setxattr(tmp_path, "system.posix_acl_default", acl)
    os.chown(tmp_path, 4711, 4712)
    tmp_path.chmod(0o2777)
    export_directory(posix, "/", str(tmp_path / "out"))
    assert of_directory(tmp_path / "out") == of_image(posix)


def test_the_umask_does_not_count(posix: Rootfs, tmp_path: Path, root: None) -> None:
    before = os.umask(0o277)
    try:
        export_directory(posix, "/", str(tmp_path / "out"))
    finally:
        os.umask(before)
    assert of_directory(tmp_path / "out") == of_image(posix)


def test_nothing_outside_is_touched_by_links_on_the_way(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    outside = bytes(victim)
    rootfs = opened(
        tmp_path / "image",
        [symlink(b"etc", outside), symlink(b"up", b"../../../../../../.." + outside), file(b"first", b"first")],
        [file(b"etc/passwd", b"mine"), file(b"up/shadow", b"mine"), hardlink(b"up/again", b"first")],
        [file(b"../../escaped", b"mine"), file(outside + b"/absolute", b"mine")],
    )
    export_directory(rootfs, "/", str(tmp_path / "out"))
    assert os.listdir(victim) == []
    assert sorted(os.listdir(tmp_path)) == ["image", "out", "victim"]
    assert sorted(os.listdir(os.fsencode(tmp_path / "out") + outside)) == [b"absolute", b"again", b"passwd", b"shadow"]


def test_hard_links_of_all_kinds(tmp_path: Path, root: None) -> None:
    members = [
        directory(b"a/"),
        directory(b"z/"),
        *(member for kind in (b"1", b"3", b"6") for member in _linked(kind)),
        symlink(b"a/link", b"nowhere"),
        hardlink(b"z/link", b"a/link"),
        file(b"z/empty"),
        hardlink(b"a/empty", b"z/empty"),
    ]
    rootfs = opened(tmp_path / "image", members)
    export_directory(rootfs, "/", str(tmp_path / "out"))
    seen = of_directory(tmp_path / "out")
    assert seen == of_image(rootfs)
    assert seen[b"z/link"].names == {b"a/link", b"z/link"}


def _linked(kind: bytes) -> list[bytes]:
    first = file(b"z/1", b"data") if kind == b"1" else header(b"z/" + kind, flag=kind, major=1, minor=3)
    return [first, hardlink(b"a/" + kind, b"z/" + kind), hardlink(b"z/more" + kind, b"a/" + kind)]


def _deep(path: Path) -> Rootfs:
    """A tree of 2200 directories one in the other, deeper than any path may be long."""
    half = b"/".join([b"d"] * 1100)
    upper = [long_name(half) + directory(b""), long_name(half, b"K") + symlink(b"half", b"")]
    return opened(path, [*upper, long_name(b"half/" + half + b"/bottom") + file(b"", b"deep")])


def test_a_tree_deeper_than_a_path_may_be(tmp_path: Path) -> None:
    try:
        export_directory(_deep(tmp_path / "image"), "/", str(tmp_path / "out"))
        fd = os.open(tmp_path / "out", os.O_RDONLY)
        for _ in range(2200):
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        assert os.listdir(fd) == ["bottom"]
        os.close(fd)
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "out"], check=True)  # pytest cannot


class StoppedError(Exception):
    pass


def _stop(done: int, total: int) -> None:
    raise StoppedError


def test_what_stops_it_leaves_nothing_of_a_deep_tree(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        export_directory(_deep(tmp_path / "image"), "/", str(tmp_path / "out"), progress=_stop)
    assert os.listdir(tmp_path) == ["image"]


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("mkdir", 1),
        ("mkdir", 4),
        ("open", 2),
        ("open", 20),
        ("open", 33),
        ("pwrite", 1),
        ("pwrite", 9),
        ("symlink", 2),
        ("mknod", 2),
        ("link", 2),
        ("chmod", 20),
        ("utime", 29),
        ("rename", 1),
    ],
)
def test_an_interrupt_at_any_call_leaves_nothing(
    posix: Rootfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: None, name: str, calls: int
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with monkeypatch.context() as patched:
        _interrupt(patched, name, calls)
        with pytest.raises(KeyboardInterrupt):
            export_directory(posix, "/", str(target))
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(target) == []


def _interrupt(patched: pytest.MonkeyPatch, name: str, calls: int) -> None:
    """Have that call of a function of `os` interrupted."""
    real: Callable[..., object] = getattr(os, name)
    left = calls

    def call(*arguments: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    patched.setattr(os, name, call)


def test_a_damaged_blob_leaves_nothing(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "image", Image(layers=(Layer(tar([file(b"f", b"data" * 999)]), "tar"),)))
    with open_image(layout) as image:
        blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        with blob.open("r+b") as changed:
            changed.seek(600)
            changed.write(b"X")
        with pytest.raises(InvalidImageError, match="changed or damaged"):
            export_directory(image.rootfs, "/", str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["image"]


def test_a_blob_that_cannot_be_read_is_not_the_target_s_fault(posix: Rootfs, tmp_path: Path) -> None:
    with pytest.raises(OcifsError, match=r"^the image cannot be read: Input/output error$"):
        refusing("pread", errno.EIO, lambda: export_directory(posix, "/", str(tmp_path / "out")))
    assert os.listdir(tmp_path) == []


def test_an_image_of_nothing(tmp_path: Path) -> None:
    export_directory(opened(tmp_path / "image", []), "/", str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("uid", "gid", "value"),
    [
        (0, 5, b"\x08\xff\xff\xff\xff\x0f\x10\x05"),
        (1000, 0, b"\x08\xe8\x07\x10\xff\xff\xff\xff\x0f"),
        (127, 128, b"\x08\x7f\x10\x80\x01"),
    ],
)
def test_rootless_records_owners_as_protobuf(tmp_path: Path, uid: int, gid: int, value: bytes) -> None:
    """The values are what `umoci unpack --rootless` writes."""
    members = [file(b"theirs", uid=uid, gid=gid), directory(b"dir/", uid=uid, gid=gid), file(b"root")]
    rootfs = opened(tmp_path / "image", members)
    assert list(export_directory(rootfs, "/", str(tmp_path / "out"), rootless=True)) == []
    seen = of_directory(tmp_path / "out")
    assert [seen[name].xattrs for name in (b"theirs", b"dir", b"root")] == [
        {b"user.rootlesscontainers": value},
        {b"user.rootlesscontainers": value},
        {},
    ]
    assert {(one.uid, one.gid) for one in seen.values()} == {(os.geteuid(), os.getegid())}


def test_rootless_takes_no_record_from_the_image_and_gives_no_rights(tmp_path: Path) -> None:
    members = [
        pax({b"SCHILY.xattr.user.rootlesscontainers": b"forged"}) + file(b"forged"),
        file(b"suid", mode=0o4755, uid=6),
        file(b"suid-root", mode=0o4755),
        header(b"null", flag=b"3", mode=0o666, major=1, minor=3),
        symlink(b"link", b"x", uid=6),
    ]
    rootfs = opened(tmp_path / "image", members)
    losses = {loss.name: (count, first) for loss, count, first in
              export_directory(rootfs, "/", str(tmp_path / "out"), rootless=True)}  # fmt: skip
    assert losses == {"RECORD": (1, b"/link"), "PLACEHOLDER": (1, b"/null"), "SET_ID": (1, b"/suid")}
    seen: dict[bytes, Seen] = of_directory(tmp_path / "out")
    assert seen[b"forged"].xattrs == {}
    assert stat.S_IMODE(seen[b"suid"].mode) == 0o755
    assert stat.S_IMODE(seen[b"suid-root"].mode) == 0o4755
    assert (seen[b"null"].mode, seen[b"null"].content) == (stat.S_IFREG | 0o666, b"")


def test_a_device_that_overlayfs_would_take_for_a_whiteout_is_told_of(tmp_path: Path, root: None) -> None:
    """Mounted or looked into it is a device as others are."""
    zero, one = header(b"zero", flag=b"3"), header(b"one", flag=b"3", minor=1)
    rootfs = opened(tmp_path / "image", [zero, header(b"block", flag=b"4"), one])
    losses = {loss.name: (count, first) for loss, count, first in export_directory(rootfs, "/", str(tmp_path / "out"))}
    assert losses == {"WHITEOUT": (1, b"/zero")}
    assert of_directory(tmp_path / "out") == of_image(rootfs)


@pytest.mark.parametrize("turn", range(3))
def test_a_directory_that_is_swapped_for_a_symlink_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    made: list[bytes] = []
    mkdir = os.mkdir

    def swapped(name: bytes, mode: int, *, dir_fd: int | None = None) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        if dir_fd is not None and len(made) == turn:
            os.rename(name, b"moved", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            os.symlink(victim, name, dir_fd=dir_fd)
        made.append(name)

    rootfs = opened(tmp_path / "image", [file(b"a/b/c/d/file", b"mine"), file(b"e/file", b"mine")])
    monkeypatch.setattr(os, "mkdir", swapped)
    with pytest.raises(OcifsError):
        export_directory(rootfs, "/", str(tmp_path / "out"))
    assert len(made) > turn
    assert os.listdir(victim) == []
    if turn:  # else it is no longer known where what was made is
        assert sorted(os.listdir(tmp_path)) == ["image", "victim"]


def test_what_is_written_is_bounded(tmp_path: Path) -> None:
    """Bytes count, and holes do not."""
    records = {b"GNU.sparse.map": b"0,1", b"GNU.sparse.numblocks": b"1", b"GNU.sparse.size": b"1000000"}
    members = [file(b"a", b"a" * 9000), pax(records) + file(b"s", b"s"), hardlink(b"l", b"a")]
    layout = write_layout(tmp_path / "image", Image(layers=(Layer(tar(members)),)))
    with open_image(layout, Options(limits=Limits(output=16 << 10))) as image:
        export_directory(image.rootfs, "/", str(tmp_path / "whole"))
    with open_image(layout, Options(limits=Limits(output=9000))) as image, pytest.raises(LimitError) as caught:
        export_directory(image.rootfs, "/", str(tmp_path / "out"))
    assert "files of more than 9000 bytes: over the limit output=" in str(caught.value)
    assert not (tmp_path / "out").exists()
