"""Blobs in memory files, for blobs that are not in a file.

A blob that was embedded in a document becomes a section of an open file (`FileReader`) like others. So a process that
inherits the file can read it without knowing the image.
"""

import os

from ocifs.reader import FileReader


def memory_blob(data: bytes) -> FileReader:
    """Write `data` to a new memory file and return it as a blob; the caller closes it."""
    fd = os.memfd_create("ocifs-blob", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return FileReader(fd, 0, len(data))
