"""A directory of an image is merged into one of the host, like `cp -r` does."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, OcifsError
from ocifs.export.merging import merge_directory
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from tests import images, tars

MEMBERS = [
    tars.directory(b"d", mode=0o1777, mtime=1_000_000_000),
    tars.file(b"d/file", b"new", mode=0o640, mtime=1_000_000_000),
    tars.hardlink(b"d/same", b"d/file"),
    tars.symlink(b"d/link", b"file"),
    tars.directory(b"d/closed", mode=0o555),
    tars.file(b"d/closed/file", b"closed"),
    tars.directory(b"d/sub", mode=0o711, mtime=1_000_000_000),
    tars.file(b"d/sub/file", b"sub"),
    tars.directory(b"d/sub/deep"),
    tars.file(b"d/sub/deep/file", b"deep"),
]

Tree = dict[str, str]
"""Path to content; a directory has a slash at its end, and a symlink `-> TARGET`."""

NEW: Tree = {
    "closed/": "",
    "closed/file": "closed",
    "file": "new",
    "link": "-> file",
    "same": "new",
    "sub/": "",
    "sub/deep/": "",
    "sub/deep/file": "deep",
    "sub/file": "sub",
}


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rootfs]:
    layer = images.Layer(tars.tar(MEMBERS))
    with open_image(images.write_layout(tmp_path_factory.mktemp("image") / "i", images.Image((layer,)))) as opened:
        yield opened.rootfs


def make(top: Path, tree: Tree) -> Path:
    top.mkdir()
    for name, content in tree.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_text(content)
    return top


def tree_of(top: Path) -> Tree:
    found = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[f"{name}/"] = ""
        else:
            found[name] = path.read_text()
    return found


@pytest.mark.parametrize(
    ("before", "replaced"),
    [
        ({}, []),
        ({"other": "kept", "sub/other": "kept", "sub/deep/other": "kept", "more/deep/other": "kept"}, []),
        ({"file": "old", "sub/deep/file": "old"}, ["file", "sub/deep/file"]),
        ({"link": "-> /etc", "sub/file": "-> /etc/passwd", "file": "-> nowhere"}, ["file", "link", "sub/file"]),
        ({"link": "old"}, ["link"]),
        ({"closed/": "", "sub/deep/": ""}, []),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_what_both_have_is_replaced_and_everything_else_stays(
    rootfs: Rootfs, tmp_path: Path, before: Tree, replaced: list[str], keep: bool
) -> None:
    target = make(tmp_path / "target", before)
    here = tree_of(target)
    moved, _ = merge_directory(rootfs, "/d", str(target), plain=True, keep=keep)
    after = tree_of(target)
    assert after == (NEW | here if keep else here | NEW)
    assert {name for name in replaced if after[name] == here[name]} == (set(replaced) if keep else set())
    assert not keep or not {os.fsdecode(path) for path, _ in moved} & set(replaced)


def test_it_is_the_same_as_gnu_cp(rootfs: Rootfs, tmp_path: Path) -> None:
    before = {"other": "kept", "file": "old", "sub/other": "kept", "closed/": ""}
    ours, theirs = make(tmp_path / "ours", before), make(tmp_path / "theirs", before)
    source = tmp_path / "source"
    source.mkdir()
    subprocess.run(["tar", "-xpC", source], input=tars.tar(MEMBERS), check=True)
    merge_directory(rootfs, "/d", str(ours))
    subprocess.run(["cp", "-a", f"{source}/d/.", theirs], check=True)
    assert tree_of(ours) == tree_of(theirs)
    for one, other in zip(sorted(ours.rglob("*")), sorted(theirs.rglob("*")), strict=True):
        if not one.is_symlink() and one.name != "other":
            status, expected = one.stat(), other.stat()
            assert (one, status.st_mode, status.st_nlink) == (one, expected.st_mode, expected.st_nlink)
            assert status.st_mtime == expected.st_mtime
    assert stat.S_IMODE(ours.stat().st_mode) == 0o1777


def test_plain_leaves_existing_directories_as_they_are(rootfs: Rootfs, tmp_path: Path) -> None:
    target = make(tmp_path / "target", {"sub/": ""})
    (target / "sub").chmod(0o750)
    target.chmod(0o700)
    merge_directory(rootfs, "/d", str(target), plain=True)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (target, target / "sub")] == [0o700, 0o750]


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ({"other": "kept", "sub": "file"}, "/sub: it is a file, and a directory in the image"),
        ({"sub": "-> /etc"}, "/sub: it is a file, and a directory in the image"),
        ({"sub/deep": "-> .."}, "/sub/deep: it is a file, and a directory in the image"),
        ({"file/": ""}, "/file: it is a directory, and a file in the image"),
        ({"sub/deep/file/x": "kept"}, "/sub/deep/file: it is a directory, and a file in the image"),
    ],
)
def test_what_is_in_the_way_is_an_error_and_nothing_changes(
    rootfs: Rootfs, tmp_path: Path, before: Tree, says: str
) -> None:
    target = make(tmp_path / "target", before)
    here = tree_of(target)
    with pytest.raises(OcifsError, match=says):
        merge_directory(rootfs, "/d", str(target))
    assert tree_of(target) == here


def test_a_damaged_image_changes_nothing(tmp_path: Path) -> None:
    members = [tars.file(b"d/a", b"new"), tars.file(b"d/b", b"x" * 100_000)]
    layout = images.write_layout(tmp_path / "i", images.Image((images.Layer(tars.tar(members), compression="tar"),)))
    target = make(tmp_path / "target", {"a": "old"})
    with open_image(layout) as opened:
        for blob in (layout / "blobs/sha256").iterdir():
            data = blob.read_bytes()
            if b"x" * 1000 in data:
                blob.write_bytes(data.replace(b"x" * 1000, b"y" * 1000))
        with pytest.raises(InvalidImageError):
            merge_directory(opened.rootfs, "/d", str(target))
    assert tree_of(target) == {"a": "old"}
