"""Mounts whose published hot pack does not arrive as it should; tests/mount/test_pack_download.py has all the ways."""

import os

import pytest

from tests.cli.command import Ocifs
from tests.mount.published import CONTENT, KIB, publish, stall_after
from tests.mount.test_pack_download import damaged, false_first
from tests.mounted.test_registry import state
from tests.registry import Registry
from tests.waiting import wait_for


def test_reads_do_not_wait_for_a_pack_that_stalls(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    published = publish(registry)
    published.fault(stall_after(published.frames[1] + 5))
    with ocifs.mounted(published.reference, "--engine", engine, "--no-prefetch") as mnt:
        assert (mnt / "data0").read_bytes() == CONTENT
        assert (mnt / "data1").read_bytes() == CONTENT[1:]


def test_false_bytes_that_were_read_refute_a_mount_whose_pack_is_damaged(
    ocifs: Ocifs, registry: Registry, engine: str
) -> None:
    """The kernel keeps the pages of the frame before the damage."""
    published = publish(registry, false_first, damaged(1))
    with ocifs.mounted(published.reference, "--engine", engine) as mnt:
        with (mnt / "data0").open("rb") as file:
            os.pread(file.fileno(), 64 * KIB, 0)
        wait_for(lambda: state(ocifs)["refuted"] is not None)
        assert "hot pack: bytes 0..131072 differ" in str(state(ocifs)["refuted"])
        with (mnt / "data1").open("rb") as file, pytest.raises(OSError, match="Input/output error"):
            os.pread(file.fileno(), 1, 2 << 20)
    entries = os.listdir(ocifs.cache / "entries")
    assert not [name for name in entries if published.digest.replace(":", "-") in name]
