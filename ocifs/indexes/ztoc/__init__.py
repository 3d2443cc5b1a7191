"""zTOCs, SOCI's documents about layers: read into a LayerIndex, and written from one.

A zTOC is a FlatBuffer. It lists the entries of the layer's tar, the checkpoints in its blob with their windows, and a
digest for each span between them: the same facts as a LayerIndex. Source: schema and documentation of soci-snapshotter,
version 0.9 of the format; docs/formats.md has the essentials.
"""

from struct import Struct

VERSION = b"0.9"

GZIP, UNCOMPRESSED = 1, 2
"""Numbers of the supported compressions."""

KINDS = (b"reg", b"hardlink", b"symlink", b"char", b"block", b"dir", b"fifo")
"""Indexed by the kinds of an `Entry`."""

WINDOW = 1 << 15
GZIP_HEAD = Struct("<iq")
"""Head of the gzip checkpoints: their number, and the nominal bytes of a span."""
GZIP_POINT = Struct(f"<qqB{WINDOW}s")
"""Offset in the blob of the first whole byte, offset in the tar stream, bits of the byte before, window."""
TAR_POINTS = Struct("<iqq")
"""The checkpoints of an uncompressed layer: a version, the bytes of a span, the bytes of the stream."""
IMPLICIT_START = 10
"""Offset of the first checkpoint, which older writers omit: the end of the shortest gzip header."""
