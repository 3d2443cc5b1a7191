"""Writing one file of the cache; a full or failing disk moves it to memory."""

import errno
import os
from collections.abc import Callable

from zlib_ng import zlib_ng

from ocifs.errors import StoreError, raise_if_short
from ocifs.store.entry import Kind, footer


class Writer:
    """Writes an entry's payload in order. If the disk is full, it moves the payload to memory and continues."""

    def __init__(self, fd: int, warn: Callable[[str], None], size: int = 0) -> None:
        self.fd = fd
        self.size = size
        """Bytes of the payload so far; not 0 at first if the entry continues a partial one."""
        self.crc = 0
        self.warn = warn
        self.in_memory = False
        self.for_memory = True
        """Whether the payload may move to memory."""
        self.durable = True
        """Whether to wait until the disk has the payload. If a crash loses an entry, its checksum shows that."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append to the payload."""
        self.crc = zlib_ng.crc32(data, self.crc)
        self._write(data)

    def cut(self, size: int) -> None:
        """Truncate the payload to at most `size` bytes."""
        self.size = min(size, self.size)
        os.ftruncate(self.fd, self.size)

    def finish(self, kind: Kind, subject: str) -> None:
        """Append the footer, and sync the file to disk unless it need not be durable."""
        end = footer(kind, subject, self.size, self.crc)
        self._write(end)
        self.size -= len(end)
        if self.durable and not self.in_memory:
            try:
                os.fsync(self.fd)
            except OSError as error:  # written data may be lost, so moving to memory is not possible
                raise_if_short(error)
                raise StoreError(f"cache: {error.strerror}: name another directory with --cache-dir") from None

    def close(self) -> None:
        """Close the unfinished file."""
        os.close(self.fd)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self.fd, view, self.size)
            except OSError as error:
                raise_if_short(error)
                if self.in_memory or not self.for_memory or error.errno not in _REASONS_FOR_MEMORY:
                    raise StoreError(f"cache: {error.strerror}") from None
                self.warn(f"cannot write to the cache: {error.strerror}: continuing without it")
                self._move_to_memory()
                continue
            view = view[written:]
            self.size += written

    def _move_to_memory(self) -> None:
        memory = os.memfd_create("ocifs")
        copied = 0
        while copied < self.size:
            copied += os.sendfile(memory, self.fd, copied, self.size - copied)
        os.ftruncate(self.fd, 0)
        os.close(self.fd)
        self.fd = memory
        self.in_memory = True


_REASONS_FOR_MEMORY = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}

Build = Callable[[Writer], None]
