"""The first Ctrl-C ends a command, whatever it is doing: one line, status 130, and nothing left behind."""

import gzip
import os
import random
import signal
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar

if TYPE_CHECKING:
    import subprocess

_PATIENCE = 30.0
_TAR = tar([file(b"f", random.Random(1).randbytes(17 << 20))])


@dataclass(frozen=True)
class Stored(Layer):
    """A layer whose blob is given."""

    stored: bytes = b""

    @property
    def blob(self) -> bytes:
        return self.stored


def indexing(process: "subprocess.Popen[bytes]", ocifs: Ocifs) -> None:
    """Wait until the command is building a LayerIndex."""
    deadline = time.monotonic() + _PATIENCE
    while not list(ocifs.cache.glob("entries/*.tmp")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)


def child(process: "subprocess.Popen[bytes]") -> int:
    """Wait until the command has a process of its own that runs its program, and return it.

    Before that, the command waits for it in vfork(2), where it handles no signal.
    """
    listed = Path(f"/proc/{process.pid}/task")
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        own = Path(f"/proc/{process.pid}/cmdline").read_bytes()  # empty for a moment after execve(2)
        for task in listed.iterdir():
            for pid in (task / "children").read_text().split():
                if Path(f"/proc/{pid}/cmdline").read_bytes() not in {own, b""}:
                    return int(pid)
        time.sleep(0.02)
    pytest.fail("it has no process of its own")


def interrupted(process: "subprocess.Popen[bytes]") -> str:
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 130
    return complaint.decode()


@pytest.mark.parametrize("verb", ["ls", "index", "verify"])
def test_while_millions_of_frames_are_looked_at(ocifs: Ocifs, tmp_path: Path, verb: str) -> None:
    """It takes minutes to look at these."""
    content = tar([file(b"f", b"x")])
    blob = struct.pack("<II", 0x184D2A50, 0) * (8 << 20) + zstandard.compress(content)
    image = write_layout(tmp_path / "image", Image((Stored(content, "zstd", stored=blob),)))
    process = ocifs.start(verb, image)
    if verb == "verify":
        time.sleep(1)  # it builds in memory
    else:
        indexing(process, ocifs)
    assert interrupted(process).endswith("ocifs: interrupted\n")
    assert ocifs.leftovers() == []


@pytest.mark.parametrize("verb", ["ls", "index", "verify"])
def test_while_a_process_that_inflates_does_not_answer(ocifs: Ocifs, tmp_path: Path, verb: str) -> None:
    image = write_layout(tmp_path / "image", Image((Stored(_TAR, stored=gzip.compress(_TAR, 1, mtime=0)),)))
    process = ocifs.start(verb, image)
    os.kill(child(process), signal.SIGSTOP)
    assert interrupted(process).endswith("ocifs: interrupted\n")
    assert ocifs.leftovers() == []


@pytest.mark.parametrize("ending", depth([signal.SIGKILL], [signal.SIGKILL, signal.SIGSTOP]))
def test_a_process_that_inflates_and_ends_is_done_without(ocifs: Ocifs, tmp_path: Path, ending: signal.Signals) -> None:
    """After SIGSTOP, ocifs waits five seconds."""
    image = write_layout(tmp_path / "image", Image((Stored(_TAR, stored=gzip.compress(_TAR, 1, mtime=0)),)))
    process = ocifs.start("ls", image)
    os.kill(child(process), ending)
    assert process.communicate(timeout=2 * _PATIENCE) == (b"f\n", b"")
    assert process.returncode == 0
