"""Parse tar headers into a TOC: the entries of one layer's uncompressed stream, with the offsets of their file data.

This package imports only the modules below it; it knows nothing of layers: a name is bytes, neither cleaned nor
resolved.

`scan` accepts what Go's archive/tar accepts (v7, ustar, star, GNU, pax, all forms of sparse files), because that
reader decides what a container image is, and refuses everything else. It checks each number, name and count before
it allocates memory for it.

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
