"""What happens to a mount when the image below it does not stay as it was."""

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Layer
from tests.tars import file, tar


def the_layer(image: Path) -> Path:
    """Return the image's largest blob."""
    return max((image / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)


def damage(blob: Path) -> None:
    """Change bytes of the span that holds the second MiB of `dir/big`."""
    with blob.open("r+b") as file:
        file.seek(-(1 << 20), os.SEEK_END)
        file.write(b"damage")


def test_a_damaged_blob_is_eio_and_one_line_in_the_log_and_the_rest_stays_readable(ocifs: Ocifs, small: Path) -> None:
    blob = the_layer(small)
    with ocifs.mounted(small) as mountpoint:
        damage(blob)
        with (mountpoint / "dir/big").open("rb", buffering=0) as big:
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                os.pread(big.fileno(), 4096, (2 << 20) - 4096)
            assert len(os.pread(big.fileno(), 4096, 4096)) == 4096
        assert (mountpoint / "hello").read_text() == "hello\n"
    (line,) = ocifs.log.read_text().splitlines()
    assert f"sha256:{blob.name}" in line


_MAPS = """
import mmap, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with open(sys.argv[1]) as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print(len(mapped[:4096]), flush=True)
mapped[(2 << 20) - 4096 : 2 << 20]
"""


def test_a_damaged_span_that_is_mapped_is_sigbus(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        damage(the_layer(small))
        command = [sys.executable, "-c", _MAPS, str(mountpoint / "dir/big")]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        assert (ran.stdout, ran.returncode) == ("4096\n", -signal.SIGBUS)
        assert (mountpoint / "hello").read_text() == "hello\n"


def test_damage_that_is_mended_is_forgotten(ocifs: Ocifs, small: Path) -> None:
    blob = the_layer(small)
    whole = blob.read_bytes()
    with ocifs.mounted(small) as mountpoint:
        expected = ocifs.run("cat", small, "dir/big").out
        damage(blob)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (mountpoint / "dir/big").read_bytes()
        blob.write_bytes(whole)
        assert (mountpoint / "dir/big").read_bytes() == expected


def test_a_truncated_blob_is_eio(ocifs: Ocifs, small: Path) -> None:
    with ocifs.mounted(small) as mountpoint:
        os.truncate(the_layer(small), 4096)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (mountpoint / "dir/big").read_bytes()
        assert os.listdir(mountpoint / "dir") == ["big"]


def test_a_blob_that_is_replaced_under_its_name_changes_nothing(ocifs: Ocifs, small: Path) -> None:
    expected = ocifs.run("cat", small, "dir/big").out
    blob = the_layer(small)
    with ocifs.mounted(small) as mountpoint:
        other = blob.with_name("other")
        other.write_bytes(bytes(blob.stat().st_size))
        other.rename(blob)
        assert (mountpoint / "dir/big").read_bytes() == expected
    assert ocifs.log.read_text() == ""


def test_another_blob_in_the_place_of_one_is_eio_and_never_its_bytes(ocifs: Ocifs, small: Path) -> None:
    """Of the same length, a layer as well, written over it in place; the log stays short however much is read."""
    blob = the_layer(small)
    members = [file(b"hello", b"HELLO\n"), file(b"dir/big", random.Random(3).randbytes(3 << 20))]
    swapped = Layer(tar(members)).blob
    with ocifs.mounted(small) as mountpoint:
        size = blob.stat().st_size
        blob.write_bytes(swapped[:size].ljust(size, b"\0"))
        for _ in range(3):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                (mountpoint / "dir/big").read_bytes()
    lines = ocifs.log.read_text().splitlines()
    assert 1 <= len(lines) <= 4
    assert all("are not what they were when the layer was indexed" in line for line in lines)


def test_a_deleted_image_and_cache_are_still_served(ocifs: Ocifs, small: Path) -> None:
    expected = ocifs.run("cat", small, "dir/big").out
    with ocifs.mounted(small) as mountpoint:
        for blob in (small / "blobs/sha256").iterdir():
            blob.unlink()
        ocifs.output("cache", "clear")
        assert (mountpoint / "dir/big").read_bytes() == expected


def test_a_blob_damaged_before_the_mount_is_found_when_it_is_read(ocifs: Ocifs, small: Path) -> None:
    ocifs.output("index", small)
    blob = the_layer(small)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    assert f"sha256:{blob.name}" in ocifs.complaint(4, "index", "--cache-dir", ocifs.home / "cold", small)
    with ocifs.mounted(small) as mountpoint:
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (mountpoint / "dir/big").read_bytes()
        assert (mountpoint / "hello").read_text() == "hello\n"


@pytest.mark.parametrize("engine", ["fuse"], indirect=True)  # it is over when an engine begins
@pytest.mark.parametrize("kind", ["layer", "tree"])
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_cache_entry_is_made_again(ocifs: Ocifs, small: Path, kind: str, damage: bytes | None) -> None:
    ocifs.output("index", small)
    (entry,) = (path for path in (ocifs.cache / "entries").iterdir() if path.name.startswith(kind))
    whole = entry.read_bytes()
    entry.write_bytes(bytes([whole[0] ^ 1]) + whole[1:] if damage is None else damage)
    with ocifs.mounted(small) as mountpoint:
        assert (mountpoint / "hello").read_text() == "hello\n"
    assert entry.read_bytes() == whole


def test_a_reader_is_told_at_once_when_the_daemon_is_killed(ocifs: Ocifs, small: Path) -> None:
    mountpoint = ocifs.mountpoint()
    ocifs.output("mount", small, mountpoint)
    pids = ocifs.processes()

    def read_while_the_daemon_dies() -> None:
        with (mountpoint / "dir/big").open("rb") as big:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            big.read()

    with pytest.raises(OSError, match=r"not connected|aborted|Input/output"):
        read_while_the_daemon_dies()
    ocifs.output("umount", mountpoint)
