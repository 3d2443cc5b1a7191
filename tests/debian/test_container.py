"""Containers of a real image: the runtimes, the kinds of rootfs, and one that does a lot before it is killed."""

import os
import signal
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.containers.conftest import runtime

__all__ = ["runtime"]

_BUSY = """
import mmap, os, time
for name in "abcd":
    if os.fork() == 0:
        with open(f"/srv/{name}", "w+b") as file:
            file.truncate(64 << 20)
            mapped = mmap.mmap(file.fileno(), 0)
            for place in range(0, len(mapped), 1 << 20):
                mapped[place : place + (1 << 20)] = name.encode() * (1 << 20)
            mapped.flush()
            with open("/usr/bin/git", "r+b") as copied:  # from the image into the overlay, mapped while written
                again = mmap.mmap(copied.fileno(), 0)
                again[:4] = again[:4]
            print("ready", flush=True)
            time.sleep(1000)
while True:
    os.wait()
"""


@pytest.mark.parametrize("rootfs", ["mount", "overlay", "tmpfs"])
def test_python_prints_42(session_ocifs: Ocifs, debian: Path, root: None, runtime: str, rootfs: str) -> None:
    arguments = ["--runtime", runtime, "--rootfs", rootfs, f"{debian}:latest", "-c", "print(42)"]
    assert session_ocifs.output("run", *arguments) == "42\n"


@pytest.mark.parametrize("rootfs", ["overlay", "tmpfs"])
def test_a_container_that_writes_forks_and_maps_leaves_nothing_when_killed(
    ocifs: Ocifs, debian: Path, root: None, runc: None, rootfs: str
) -> None:
    with ocifs.start("run", "--rootfs", rootfs, f"{debian}:latest", "-c", _BUSY) as process:
        assert process.stdout is not None
        try:
            assert [process.stdout.readline() for _ in range(4)] == [b"ready\n"] * 4
            (pid_file,) = [*ocifs.runtime.glob("ocifs/ocifs-*/pid"), *ocifs.temporary.glob("ocifs-*/pid")]
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
            assert process.wait(timeout=60) == 128 + signal.SIGKILL
        finally:
            process.terminate()
    assert ocifs.leftovers() == []
