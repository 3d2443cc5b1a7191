"""Tar headers to a TOC: what one layer's uncompressed stream holds, and where its file data lie.

`scan` accepts what Go's archive/tar accepts (v7, ustar, star, GNU, pax, all forms of sparse files), because that
reader decides what a container image is; it refuses the rest. Every number, name and count is checked here, before
memory is spent on it. Nothing here knows of layers: a name is bytes, neither cleaned nor resolved.

Formats: POSIX.1-2017, pax, "pax Interchange Format" and "ustar Interchange Format"; GNU tar manual, "Basic Tar
Format" and "Storing Sparse Files"; libarchive's tar(5).
"""

from ocifs.toc.entry import BLOCK, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Entry
from ocifs.toc.forward import ChunkReader, Forward, ReaderForward
from ocifs.toc.scan import members, read_entries, scan

__all__ = [
    "BLOCK",
    "CHARACTER",
    "DIRECTORY",
    "FIFO",
    "HARDLINK",
    "REGULAR",
    "SYMLINK",
    "ChunkReader",
    "Entry",
    "Forward",
    "ReaderForward",
    "members",
    "read_entries",
    "scan",
]
