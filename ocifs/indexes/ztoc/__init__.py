"""zTOCs: what SOCI publishes of a layer, read into a LayerIndex and written from one.

A zTOC is a FlatBuffer with the entries of the layer's tar, the places in its blob at which decoding can start, with
their windows, and a digest for each span between them: what a LayerIndex has, in other words. Source: the schema and
the documents of the soci-snapshotter, version 0.9 of the format; docs/formats.md has what matters.
"""

from struct import Struct

VERSION = b"0.9"

GZIP, UNCOMPRESSED = 1, 2
"""The compressions that there are."""

KINDS = (b"reg", b"hardlink", b"symlink", b"char", b"block", b"dir", b"fifo")
"""By the kinds of an `Entry`."""

WINDOW = 1 << 15
GZIP_HEAD = Struct("<iq")
"""Of the checkpoints of gzip: their number, and the bytes of a span, nominally."""
GZIP_POINT = Struct(f"<qqB{WINDOW}s")
"""Offset in the blob of the first whole byte, offset in the tar stream, bits of the byte before, window."""
TAR_POINTS = Struct("<iqq")
"""The checkpoints of no compression: a version, the bytes of a span, the bytes of the stream."""
IMPLICIT_START = 10
"""Where the first checkpoint is that older writers leave out: behind the shortest header that gzip has."""
