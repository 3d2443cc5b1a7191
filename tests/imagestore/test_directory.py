import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ocifs.errors import StoreError
from ocifs.imagestore.directory import StoreDirectory
from ocifs.imagestore.records import ImageOrigin, ImageRecord, LayerRecord, Records, StoreRecord

A, B = "a" * 64, "b" * 64
RECORDS = Records(
    (ImageRecord(id=A, digest=f"sha256:{A}", layer=B),),
    (LayerRecord(id=B, created="2026-01-01T00:00:00Z"),),
    StoreRecord(images=(ImageOrigin(id=A, reference="x", digest="y"),)),
)
_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_an_empty_store_has_what_podman_needs(tmp_path: Path) -> None:
    with StoreDirectory.opened(tmp_path / "new/store", make=True) as at:
        assert at.read() == Records()
    store = tmp_path / "new/store"
    assert sorted(os.listdir(store)) == ["ocifs.json", "ocifs.lock", "overlay", "overlay-images", "overlay-layers"]
    assert sorted(os.listdir(store / "overlay-images")) == ["images.json", "images.lock"]
    assert sorted(os.listdir(store / "overlay-layers")) == ["layers.json", "layers.lock"]
    assert (store / "overlay-layers/layers.json").read_bytes() == b"[]"
    assert store.stat().st_mode & 0o777 == 0o700


def test_a_store_for_another_user_is_readable(tmp_path: Path) -> None:
    with StoreDirectory.opened(tmp_path / "store", make=True, public=True) as at:
        at.write(RECORDS)
        at.write_data(A, [("manifest", b"{}")])
        at.write_tar_split(B, lambda: [b"x"])
    for path in (tmp_path / "store").rglob("*"):
        expected = 0o755 if path.is_dir() else 0o600 if path.name == "ocifs.lock" else 0o644
        if path.name != "overlay":  # the mount hides it
            assert (path.name, oct(path.stat().st_mode & 0o777)) == (path.name, oct(expected))


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    with StoreDirectory.opened(tmp_path / "store", make=True) as at:
        at.write(RECORDS)
    with StoreDirectory.opened(tmp_path / "store") as at:
        assert at.read() == RECORDS


def test_each_change_changes_the_locks(tmp_path: Path) -> None:
    """podman compares the 64 bytes in them with those that it has read before."""
    files = [tmp_path / "store/overlay-images/images.lock", tmp_path / "store/overlay-layers/layers.lock"]
    seen = set()
    with StoreDirectory.opened(tmp_path / "store", make=True) as at:
        for _ in range(3):
            at.write(RECORDS)
            seen |= {file.read_bytes() for file in files}
    assert len(seen) == 6
    assert {len(each) for each in seen} == {64}


@pytest.mark.parametrize("lock", ["overlay-images/images.lock", "overlay-layers/layers.lock"])
def test_a_change_waits_for_the_lock_of_podman(tmp_path: Path, lock: str) -> None:
    with StoreDirectory.opened(tmp_path / "store", make=True) as at:
        command = [sys.executable, "-c", _LOCK, str(tmp_path / "store" / lock)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"locked\n"
            writing = threading.Thread(target=at.write, args=(RECORDS,))
            writing.start()
            writing.join(0.2)
            assert writing.is_alive()
            assert at.read_images() == ()
            other.communicate()
        writing.join()
        assert at.read() == RECORDS


def test_two_commands_do_not_overlap(tmp_path: Path) -> None:
    with (
        StoreDirectory.opened(tmp_path / "store", make=True),
        (tmp_path / "store/ocifs.lock").open("r+b") as lock,
        pytest.raises(BlockingIOError),
    ):
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "store/ocifs.lock").open("r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_removed_images_and_temporary_files_leave_nothing(tmp_path: Path) -> None:
    with StoreDirectory.opened(tmp_path / "store", make=True) as at:
        at.write(RECORDS)
        at.write_data(A, [("manifest", b"{}")])
        at.write_data(B, [("manifest", b"{}")])
        at.write_tar_split(A, lambda: [b"x"])
        at.write_tar_split(B, lambda: [b"x"])
        (tmp_path / "store/overlay-layers/.ocifs-0123").write_bytes(b"of a killed command")
        at.remove_unused(RECORDS)
        assert at.data_of(A) == {"manifest": 2}
        assert at.data_of(B) == {}
        assert (at.has_tar_split(A), at.has_tar_split(B)) == (False, True)
        assert sorted(os.listdir(tmp_path / "store/overlay-layers")) == [
            f"{B}.tar-split.gz",
            "layers.json",
            "layers.lock",
        ]


def test_a_full_disk_leaves_no_tar_split(small_disk: Path) -> None:
    with StoreDirectory.opened(small_disk / "store", make=True) as at:
        with pytest.raises(StoreError, match=r"store .*: No space left on device"):
            at.write_tar_split(B, lambda: [os.urandom(1 << 20)])
        at.write(RECORDS)
    assert sorted(os.listdir(small_disk / "store/overlay-layers")) == ["layers.json", "layers.lock"]


def test_directories_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "other/file").write_bytes(b"")
    for make in (False, True):
        with (
            pytest.raises(StoreError, match="is not a store of ocifs"),
            StoreDirectory.opened(tmp_path / "other", make=make),
        ):
            pass
    with (
        pytest.raises(StoreError, match=r"does not exist: `ocifs store add .*` makes it"),
        StoreDirectory.opened(tmp_path / "no"),
    ):
        pass
    assert not (tmp_path / "no").exists()


def test_a_store_of_another_version(tmp_path: Path) -> None:
    with StoreDirectory.opened(tmp_path / "store", make=True) as at:
        (tmp_path / "store/ocifs.json").write_bytes(b'{"format":2}')
        with pytest.raises(StoreError, match="the store has format 2, this version of ocifs writes 1"):
            at.read()
