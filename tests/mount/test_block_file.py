"""The one file, asked for over a socket as the kernel asks over /dev/fuse. What the kernel makes of the answers is seen
in tests/mounted.
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ocifs.errors import InvalidImageError
from ocifs.image.served_file import ServedFile
from ocifs.mount.block_file import BlockFile
from ocifs.mount.fuse_protocol import ROOT, Operation
from ocifs.mount.reading import Reading
from ocifs.reader import BytesReader

CONTENT = bytes(range(256)) * 64
FILE = ROOT + 1


class Damaged(BytesReader):
    """Bytes of which some cannot be proven."""

    def pread(self, size: int, offset: int) -> bytes:
        if offset >= 8192:
            raise InvalidImageError("a span of the one file was changed")
        return super().pread(size, offset)


class Reply(NamedTuple):
    error: int
    body: bytes


class Kernel:
    """The other end of /dev/fuse."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.end.settimeout(10)
        self.last = 0

    def send(self, operation: int, inode: int, body: bytes = b"") -> int:
        self.last += 2
        header = struct.pack("=IIQQIIIHH", 40 + len(body), operation, self.last, inode, 0, 0, 1, 0, 0)
        self.end.send(header + body)
        return self.last

    def ask(self, operation: int, inode: int, body: bytes = b"") -> Reply:
        unique = self.send(operation, inode, body)
        data = self.end.recv(2 << 20)
        length, error, answered = struct.unpack_from("=IiQ", data)
        assert (length, answered) == (len(data), unique)
        return Reply(-error, data[16:])

    def read(self, size: int, offset: int) -> Reply:
        return self.ask(Operation.READ, FILE, struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0))


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    served = ServedFile(Damaged(CONTENT), [])
    block_file = BlockFile(theirs.detach(), "ocifs:digest", Reading(served, timeout=60))
    reading, writing = os.pipe()
    thread = threading.Thread(target=block_file.serve, args=(reading,))
    thread.start()
    with ours:
        yield Kernel(ours)
        os.close(writing)
        thread.join(10)
        assert not thread.is_alive()
    block_file.close()
    os.close(reading)


def test_it_agrees_with_the_kernel_on_a_version(kernel: Kernel) -> None:
    offered = 0xFFFFFFFF
    reply = kernel.ask(Operation.INIT, 0, struct.pack("=IIII48x", 7, 43, 131072, offered))
    assert len(reply.body) == 64
    major, minor, read_ahead, flags = struct.unpack_from("=IIII", reply.body)
    (pages,) = struct.unpack_from("=H", reply.body, 28)
    assert (major, minor, read_ahead, pages) == (7, 31, 131072, 256)
    assert flags == 1 << 0 | 1 << 22  # FUSE_ASYNC_READ, FUSE_MAX_PAGES: what is not asked for is not agreed to


def test_the_file_is_found_by_its_name_for_good(kernel: Kernel) -> None:
    reply = kernel.ask(Operation.LOOKUP, ROOT, b"ocifs:digest\0")
    inode, _, entry_seconds, attribute_seconds = struct.unpack_from("=QQQQ", reply.body)
    assert (reply.error, inode) == (0, FILE)
    assert min(entry_seconds, attribute_seconds) > 10**8
    number, size = struct.unpack_from("=QQ", reply.body, 40)
    (mode,) = struct.unpack_from("=I", reply.body, 40 + 60)
    assert (number, size, mode) == (FILE, len(CONTENT), 0o100400)


def test_nothing_else_is_there(kernel: Kernel) -> None:
    assert kernel.ask(Operation.LOOKUP, ROOT, b"ocifs\0") == (errno.ENOENT, b"")


def test_the_directory_has_attributes(kernel: Kernel) -> None:
    reply = kernel.ask(Operation.GETATTR, ROOT, bytes(16))
    assert len(reply.body) == 104
    (mode,) = struct.unpack_from("=I", reply.body, 16 + 60)
    assert mode == 0o040500


@pytest.mark.parametrize(("size", "offset"), [(4096, 0), (100, 4000), (8192, 0), (1, 8191)])
def test_bytes_are_those_of_the_file(kernel: Kernel, size: int, offset: int) -> None:
    assert kernel.read(size, offset) == (0, CONTENT[offset : offset + size])


def test_bytes_that_cannot_be_proven_are_an_error_and_a_line_in_the_log(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    assert kernel.read(4096, 8192) == (errno.EIO, b"")
    assert kernel.read(4096, 12288) == (errno.EIO, b"")
    assert caplog.messages == ["a span of the one file was changed"]
    assert kernel.read(16, 0) == (0, CONTENT[:16])


@pytest.mark.parametrize("offset", [len(CONTENT), len(CONTENT) + 4096, 2**63, 2**64 - 4096])
def test_there_is_nothing_beyond_the_end(kernel: Kernel, offset: int, caplog: pytest.LogCaptureFixture) -> None:
    """An answer of no bytes would have the kernel believe that the file ends there."""
    assert kernel.read(4096, offset) == (errno.EIO, b"")
    assert caplog.messages == []


def test_what_is_not_answered_is_not(kernel: Kernel) -> None:
    kernel.send(Operation.FORGET, FILE, bytes(8))
    kernel.send(Operation.BATCH_FORGET, 0, bytes(8))
    assert kernel.read(1, 0).error == 0


@pytest.mark.parametrize("operation", [22, 25, 34, 36])  # GETXATTR, FLUSH, ACCESS, INTERRUPT
def test_the_kernel_need_not_ask_again_for_what_is_not_there(kernel: Kernel, operation: int) -> None:
    assert kernel.ask(operation, FILE, bytes(24)) == (errno.ENOSYS, b"")


def test_releasing_is_answered(kernel: Kernel) -> None:
    assert kernel.ask(Operation.RELEASE, FILE, bytes(24)) == (0, b"")
