"""The database and the directories: damage, full disks, kills at every step. Nothing that a container wrote is lost."""

import itertools
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from ocifs.errors import StoreError
from ocifs.options import Options
from ocifs.snapshotter.metadata import ImageSource
from ocifs.snapshotter.serving import open_snapshots
from ocifs.snapshotter.settings import Settings
from ocifs.snapshotter.snapshots import Snapshots
from ocifs.snapshotter.status import SnapshotError
from tests.snapshotter.killing import killed_after

CHAIN = "sha256:" + "1" * 64


def settings(root: Path) -> Settings:
    return Settings(root=root, options=Options(), service=False)


@pytest.fixture
def root_directory(tmp_path: Path, root: None) -> Path:
    """A snapshotter's directory with a committed snapshot, and the writes of a container."""
    with open_snapshots(settings(tmp_path / "root")) as snapshots:
        snapshots.prepare("a", "", {})
        snapshots.commit("base", "a", {"l": "1"})
        snapshots.prepare("container", "base", {})
    (tmp_path / "root/snapshots/2/fs/written").write_text("by the container")
    return tmp_path / "root"


def written(root: Path) -> str:
    return (root / "snapshots/2/fs/written").read_text()


def _truncate(path: Path) -> None:
    os.truncate(path, 5000)


def _scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"x" * 4096
    path.write_bytes(data)


def _point_nowhere(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE snapshots SET parent = 99 WHERE name = 'container'")


def _later_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1000")


_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no database": (lambda path: path.write_bytes(b"no database at all" * 500), "is damaged"),
    "truncated": (_truncate, "is damaged"),
    "a page is overwritten": (_scribble, "is damaged"),
    "a parent is missing": (_point_nowhere, "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is missing or empty, but"),
    "missing": (lambda path: path.unlink(), "is missing or empty, but"),
    "of a later version": (_later_version, "was written by a later version of ocifs"),
    "a link": (lambda path: path.with_name("link").hardlink_to(path), "is a link or a special file"),
    "readable by others": (lambda path: path.chmod(0o666), "can be written by"),
}


@pytest.mark.parametrize("what", _DAMAGE)
def test_a_damaged_database_is_refused_and_no_snapshot_touched(what: str, root_directory: Path) -> None:
    damage, message = _DAMAGE[what]
    for suffix in ("-wal", "-shm"):
        (root_directory / f"metadata.db{suffix}").unlink(missing_ok=True)
    damage(root_directory / "metadata.db")
    with pytest.raises(StoreError) as caught, open_snapshots(settings(root_directory)):
        pass
    assert message in str(caught.value)
    assert str(root_directory / "metadata.db") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert written(root_directory) == "by the container"


def test_an_older_copy_of_the_database_loses_no_files(root_directory: Path) -> None:
    with open_snapshots(settings(root_directory)) as snapshots:
        shutil.copytree(root_directory, root_directory.parent / "backup")
        snapshots.prepare("later", "base", {})
    (root_directory / "snapshots/3/fs/written").touch()
    for path in root_directory.glob("metadata.db*"):
        path.unlink()
    for path in (root_directory.parent / "backup").glob("metadata.db*"):
        shutil.copy(path, root_directory)
    with open_snapshots(settings(root_directory)) as snapshots:
        snapshots.cleanup()
        snapshots.prepare("new", "base", {})
        snapshots.cleanup()
        assert os.listdir(root_directory / "snapshots/3/fs") == []
        assert [*(root_directory / "snapshots").glob("kept-3-*/fs/written")]
    assert written(root_directory) == "by the container"


def test_a_second_snapshotter_is_refused(root_directory: Path) -> None:
    with (
        open_snapshots(settings(root_directory)),
        pytest.raises(StoreError, match="another ocifs snapshotter uses"),
        open_snapshots(settings(root_directory)),
    ):
        pass


def test_a_directory_of_another_user_is_refused(root_directory: Path) -> None:
    os.chown(root_directory, 1234, 1234)
    with pytest.raises(StoreError, match="belongs to uid 1234"), open_snapshots(settings(root_directory)):
        pass


def _consistent(root: Path) -> list[tuple[str, str, str]]:
    """Open it; check that snapshots and directories agree, also after clean-up; return the snapshots."""
    with open_snapshots(settings(root)) as snapshots:
        for _ in range(2):
            found = snapshots.metadata.all()
            for each in found:
                if each.chain is None:
                    assert (root / "snapshots" / str(each.id) / "fs").is_dir(), each
            snapshots.cleanup()
        ids = sorted(str(each.id) for each in found if each.chain is None)
        assert sorted(os.listdir(root / "snapshots")) == ids
        assert written(root) == "by the container"
        snapshots.prepare("still works", "base", {})
        snapshots.remove("still works")
        snapshots.cleanup()
    return [(each.name, each.kind, each.parent) for each in found]


def _prepare_after_a_failure(snapshots: Snapshots) -> None:
    """Prepare with the ID of an addition that has failed, and left its directory."""

    def fail(number: int) -> None:
        directory = snapshots.images.mountpoint(CHAIN).parents[1] / "snapshots" / str(number)
        for name in ("fs", "work"):
            (directory / name).mkdir(parents=True)
        raise SnapshotError("RESOURCE_EXHAUSTED", "no space")

    with suppress(SnapshotError):
        snapshots.metadata.create("active", "new", "", {}, fail)
    snapshots.prepare("new", "base", {})


_REQUESTS: dict[str, Callable[[Snapshots], object]] = {
    "Prepare": lambda snapshots: snapshots.prepare("new", "base", {}),
    "Prepare after a failure": _prepare_after_a_failure,
    "View": lambda snapshots: snapshots.view("new", "base", {}),
    "Commit": lambda snapshots: snapshots.commit("new", "container 2", {}),
    "Remove": lambda snapshots: snapshots.remove("container 2"),
    "Remove and Cleanup": lambda snapshots: [
        each() for each in (partial(snapshots.remove, "container 2"), snapshots.cleanup)
    ],
    "Update": lambda snapshots: snapshots.metadata.update("container 2", {"a": "b"}, []),
    "Usage": lambda snapshots: snapshots.usage("base"),
    "Prepare of a remote layer": lambda snapshots: snapshots.metadata.add_remote(
        "k", "base", {}, CHAIN, ImageSource("host/app", CHAIN, 2, 2)
    ),
}


def test_a_full_disk_fails_requests_and_loses_nothing(tmp_path: Path, root: None) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "ocifs-test", disk], check=True)
    try:
        with open_snapshots(settings(disk / "root")) as snapshots:
            snapshots.prepare("a", "", {})
            snapshots.commit("base", "a", {})
            snapshots.prepare("container", "base", {})
            (disk / "root/snapshots/2/fs/written").write_text("by the container")
            before = snapshots.metadata.all()
            with suppress(OSError), (disk / "filler").open("wb") as filler:
                while filler.write(bytes(1 << 10)):
                    filler.flush()
            for request in (_REQUESTS["Prepare"], _REQUESTS["View"], _REQUESTS["Prepare of a remote layer"]):
                with pytest.raises(SnapshotError, match=r"No space left|free space") as caught:
                    request(snapshots)
                assert caught.value.status == "RESOURCE_EXHAUSTED"
            assert snapshots.metadata.all() == before
            snapshots.cleanup()
            (disk / "filler").unlink()
            snapshots.prepare("container 2", "base", {})
        assert len(_consistent(disk / "root")) == 3
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_directory_whose_id_will_be_given_again_is_not_removed(root_directory: Path) -> None:
    def fail(number: int) -> None:
        (root_directory / "snapshots" / str(number) / "fs").mkdir(parents=True)
        raise SnapshotError("RESOURCE_EXHAUSTED", "no space")

    with open_snapshots(settings(root_directory)) as snapshots:
        with pytest.raises(SnapshotError, match="no space"):
            snapshots.metadata.create("active", "new", "", {}, fail)
        snapshots.cleanup()
        assert (root_directory / "snapshots/3/fs").is_dir()
        snapshots.prepare("new", "base", {})
        assert snapshots.metadata.get("new").id == 3
    assert len(_consistent(root_directory)) == 3


@pytest.mark.parametrize("request_name", _REQUESTS)
def test_a_kill_at_each_step_leaves_metadata_and_directories_that_agree(
    request_name: str, root_directory: Path, tmp_path: Path
) -> None:
    """The process is killed before its first step, then before its second, and so on, until it gets through."""
    with open_snapshots(settings(root_directory)) as snapshots:
        snapshots.prepare("container 2", "base", {})
    (root_directory / "snapshots/3/fs/file").touch()
    before = _consistent(root_directory)
    outcomes = []
    for last in range(40):
        copy = tmp_path / f"copy{last}"
        subprocess.run(["cp", "-a", root_directory, copy], check=True)
        killed = killed_after(last, settings(copy), _REQUESTS[request_name])
        outcomes.append(_consistent(copy))
        if not killed:
            break
    else:
        pytest.fail("the request never gets through")
    assert len(outcomes) > 1
    states = [each for number, each in enumerate(outcomes) if each not in outcomes[:number]]
    assert states in ([before, outcomes[-1]], [before])  # all or nothing


def _copies(root: Path, place: Path) -> Iterator[Path]:
    """Yield copies of a snapshotter's directory, one after the other."""
    for number in itertools.count():
        copy = place / f"copy{number}"
        subprocess.run(["cp", "-a", root, copy], check=True)
        yield copy


def test_a_kill_while_files_are_removed(root_directory: Path, tmp_path: Path) -> None:
    """rm(1) is killed after each file and directory: the next clean-up removes the others."""
    before = _consistent(root_directory)
    with open_snapshots(settings(root_directory)) as snapshots:
        snapshots.prepare("removed", "base", {})
        removed = root_directory / "snapshots" / str(snapshots.metadata.get("removed").id)
        snapshots.remove("removed")
    for name in ("fs/a/b", "fs/c", "work/work"):
        (removed / name).mkdir(parents=True, exist_ok=True)
    (removed / "fs/a/file").touch()
    order = [
        Path(where).relative_to(root_directory) / name
        for where, directories, files in os.walk(removed, topdown=False)
        for name in [*files, *directories]
    ]
    assert len(order) == 7
    for count, copy in zip(range(len(order) + 1), _copies(root_directory, tmp_path), strict=False):
        for path in order[:count]:
            (copy / path).rmdir() if (copy / path).is_dir() else (copy / path).unlink()
        assert _consistent(copy) == before


@pytest.mark.parametrize("written", [False, True])
def test_a_kill_while_leftovers_are_removed_or_set_aside(written: bool, root_directory: Path, tmp_path: Path) -> None:
    """The directory of an addition that was not committed, or of one that an old copy of the database lacks."""
    before = _consistent(root_directory)
    for name in ("fs", "work"):
        (root_directory / "snapshots/99" / name).mkdir(parents=True)
    if written:
        (root_directory / "snapshots/99/fs/file").touch()
    for last, copy in enumerate(_copies(root_directory, tmp_path)):
        killed = killed_after(last, settings(copy), lambda snapshots: None)
        with open_snapshots(settings(copy)):
            assert len([*(copy / "snapshots").glob("kept-99-*/fs/file")]) == written
        for kept in (copy / "snapshots").glob("kept-*"):
            shutil.rmtree(kept)
        assert _consistent(copy) == before
        if not killed:
            break
    assert last == (2 if written else 3)
