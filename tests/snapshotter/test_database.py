"""The database and the directories: damage, full disks, kills at every step. Nothing that a container wrote is lost."""

import errno
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from ocifs.errors import StoreError
from ocifs.options import Options
from ocifs.snapshotter.database import MIGRATIONS, Database
from ocifs.snapshotter.metadata import ImageSource
from ocifs.snapshotter.serving import open_snapshots
from ocifs.snapshotter.settings import SnapshotterSettings
from ocifs.snapshotter.snapshots import Snapshots
from ocifs.snapshotter.status import SnapshotError
from ocifs.trusted_directory import TrustedDirectory
from tests.faults import refusing
from tests.snapshotter.killing import killed_after

CHAIN = "sha256:" + "1" * 64


def settings(root: Path) -> SnapshotterSettings:
    return SnapshotterSettings(root=root, options=Options(), service=False)


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


def _many_snapshots(root: Path) -> None:
    """Add so many snapshots that SQLite cannot keep the database in memory."""
    with sqlite3.connect(root / "metadata.db") as connection:
        connection.executemany(
            "INSERT INTO snapshots (name, kind, created, updated, labels) VALUES (?, 'committed', 1, 1, ?)",
            [(f"many {number}", json.dumps({"label": "x" * 4000})) for number in range(1500)],
        )
    connection.close()


def _scribble_over_the_middle(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\xff" * (size // 2))


def _write_no_json(path: Path) -> None:
    """Change a byte in each label, which SQLite does not notice."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b'{"label"', b'["label"'))


@pytest.mark.parametrize("damage", [_scribble_over_the_middle, _write_no_json])
def test_damage_while_it_runs_is_data_loss(damage: Callable[[Path], None], root_directory: Path) -> None:
    _many_snapshots(root_directory)
    with open_snapshots(settings(root_directory)) as snapshots:
        damage(root_directory / "metadata.db")
        with pytest.raises(SnapshotError, match=r"metadata\.db is damaged: .*: restore it from a backup") as caught:
            snapshots.metadata.all()
        assert caught.value.status == "DATA_LOSS"
        assert "\n" not in str(caught.value)
    assert written(root_directory) == "by the container"


def test_a_damaged_log_loses_no_files(root_directory: Path) -> None:
    """SQLite ignores the log from the first wrong checksum on; the directories of what is lost are set aside."""
    with open_snapshots(settings(root_directory)) as snapshots:
        snapshots.prepare("later", "base", {})
        (root_directory / "snapshots/3/fs/file").touch()
        shutil.copytree(root_directory, root_directory.parent / "crashed")  # with a log
    crashed = root_directory.parent / "crashed"
    log = crashed / "metadata.db-wal"
    log.write_bytes(log.read_bytes()[:32] + os.urandom(log.stat().st_size - 32))
    with open_snapshots(settings(crashed)) as snapshots:
        assert "later" not in [each.name for each in snapshots.metadata.all()]
        snapshots.cleanup()
    assert [*(crashed / "snapshots").glob("kept-3-*/fs/file")]
    assert written(crashed) == "by the container"


def test_a_later_version_migrates_the_database(root_directory: Path) -> None:
    """A migration takes effect completely or not at all; the version before it refuses the result."""
    root = TrustedDirectory.open(root_directory)
    addition = "ALTER TABLE snapshots ADD COLUMN added TEXT NOT NULL DEFAULT 'x';"
    with pytest.raises(StoreError, match="no such table: missing"):
        Database(root, migrations=(*MIGRATIONS, f"{addition} UPDATE missing SET x = 1;"))
    for _ in range(2):  # it is made once
        with closing(Database(root, migrations=(*MIGRATIONS, addition))) as database:
            assert database.read("SELECT name, added FROM snapshots") == [("base", "x"), ("container", "x")]
            assert database.read("PRAGMA user_version") == [(len(MIGRATIONS) + 1,)]
    with pytest.raises(StoreError, match="was written by a later version"), open_snapshots(settings(root_directory)):
        pass
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
            (directory / name).mkdir(parents=True, exist_ok=True)
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


@pytest.fixture
def small_disk(tmp_path: Path, root: None) -> Iterator[Path]:
    """A file system of a mebibyte."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "ocifs-test", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "filler").open("wb") as filler:
        while filler.write(bytes(1 << 10)):
            filler.flush()


def test_a_full_disk_fails_requests_and_loses_nothing(small_disk: Path) -> None:
    with open_snapshots(settings(small_disk / "root")) as snapshots:
        snapshots.prepare("a", "", {})
        snapshots.commit("base", "a", {})
        snapshots.prepare("container", "base", {})
        snapshots.cleanup()
        files = small_disk / "root/snapshots" / str(snapshots.metadata.get("container").id) / "fs"
        (files / "written").write_text("by the container")
        before = snapshots.metadata.all()
        fill(small_disk)
        for request in (_REQUESTS["Prepare"], _REQUESTS["View"], _REQUESTS["Prepare of a remote layer"]):
            with pytest.raises(SnapshotError, match=r"No space left|free space") as caught:
                request(snapshots)
            assert caught.value.status == "RESOURCE_EXHAUSTED"
        assert snapshots.metadata.all() == before
        snapshots.cleanup()
        (small_disk / "filler").unlink()
        snapshots.prepare("new", "base", {})
    with open_snapshots(settings(small_disk / "root")) as snapshots:
        assert [each.name for each in snapshots.metadata.all()] == ["base", "container", "new"]
    assert (files / "written").read_text() == "by the container"


def test_a_disk_that_is_full_at_the_start(small_disk: Path) -> None:
    with open_snapshots(settings(small_disk / "root")) as snapshots:
        snapshots.prepare("container", "", {})
    fill(small_disk)
    with pytest.raises(StoreError, match=r"free space on its disk") as caught:
        open_snapshots(settings(small_disk / "root")).__enter__()
    assert "damaged" not in str(caught.value)
    (small_disk / "filler").unlink()
    with open_snapshots(settings(small_disk / "root")) as snapshots:
        assert snapshots.metadata.get("container").kind == "active"


_CHANGING = {name: request for name, request in _REQUESTS.items() if name not in {"Usage", "Remove and Cleanup"}}


@pytest.mark.parametrize(
    ("call", "code", "status", "message"),
    [
        ("pwrite", errno.ENOSPC, "RESOURCE_EXHAUSTED", "is full: free space on its disk"),
        ("pwrite", errno.EIO, "UNAVAILABLE", "disk I/O error: check the disk"),
        ("fdatasync", errno.EIO, "UNAVAILABLE", "disk I/O error: check the disk"),
    ],
)
def test_a_full_or_failing_disk_fails_each_change(
    call: str, code: int, status: str, message: str, root_directory: Path
) -> None:
    """Whatever the request, it changes nothing, and the reason is right; reads go on."""
    with open_snapshots(settings(root_directory)) as snapshots:
        snapshots.prepare("container 2", "base", {})
        before = snapshots.metadata.all()

        def failures() -> Iterator[tuple[str, str]]:
            for name, request in _CHANGING.items():
                with pytest.raises(SnapshotError, match=message) as caught:
                    request(snapshots)
                yield name, caught.value.status
            assert snapshots.metadata.all() == before
            assert snapshots.usage("base")[1] == 1  # it cannot be kept, but is known

        assert refusing(call, code, lambda: [*failures()]) == [(name, status) for name in _CHANGING]
        assert snapshots.metadata.all() == before
        snapshots.prepare("container 3", "base", {})
    assert len(_consistent(root_directory)) == 4


def test_a_database_that_cannot_be_opened_for_writing(root_directory: Path) -> None:
    """The system's limit, not a damaged or full disk."""
    (root_directory / "metadata.db-wal").unlink(missing_ok=True)
    (root_directory / "metadata.db-wal").mkdir()
    with pytest.raises(StoreError, match=r"unable to open database file: check the permissions"):
        open_snapshots(settings(root_directory)).__enter__()
    (root_directory / "metadata.db-wal").rmdir()
    assert len(_consistent(root_directory)) == 2


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
