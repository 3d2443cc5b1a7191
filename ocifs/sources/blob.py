"""Blobs that lie in no file, made into one.

Every blob is a piece of an open file (`FileReader`), even one that was embedded in a document, so a process that
inherits the file can read it without knowing the image.
"""

import os

from ocifs.reader import FileReader


def memory_blob(data: bytes) -> FileReader:
    """Return `data` as a blob in a new memory file, which the caller closes."""
    fd = os.memfd_create("ocifs-blob", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return FileReader(fd, 0, len(data))
