"""Write the zTOC of a layer.

The layer is read once, span by span, and each span is verified by its digest, so the zTOC describes the real content.
It has fewer checkpoints than the LayerIndex, one for every 4 MiB as in SOCI's own tools, because a zTOC stores windows
uncompressed.
"""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ocifs.errors import UnsupportedError, printable
from ocifs.indexes.ztoc import GZIP, GZIP_HEAD, GZIP_POINT, KINDS, TAR_POINTS, UNCOMPRESSED, VERSION, WINDOW
from ocifs.indexes.ztoc.build import Builder
from ocifs.layer.layer import Layer
from ocifs.spec.rfc3339 import format_time
from ocifs.toc import ChunkReader, Entry, members

SPAN = 4 << 20
"""Bytes of the tar stream between checkpoints, as near as the LayerIndex's checkpoints allow."""


class Written(NamedTuple):
    """A zTOC."""

    data: bytes
    spans: list[int]
    """The span of the LayerIndex at which each of its spans begins."""


def write_ztoc(layer: Layer, tool: str) -> Written:
    """Return the zTOC of a layer; `tool` names its writer.

    Raises:
        UnsupportedError: A zTOC cannot represent the layer.
        InvalidImageError, NotFoundError, RegistryError: The layer cannot be read.
    """
    summary = layer.index.summary
    if summary.reframed or summary.codec == "zstd":
        raise UnsupportedError("SOCI cannot represent layers that are compressed with zstd, or have no checkpoints")
    chosen = _choose_spans(layer)
    digests: list[bytes] = []
    tail = bytearray()
    stream = ChunkReader(_decoded(layer, chosen, digests, tail))
    entries = list(members(stream, warn=lambda message: None))
    stream.drain()
    if summary.codec == "gzip" and int.from_bytes(tail, "little") != layer.size % (1 << 32):
        raise UnsupportedError(
            "SOCI cannot represent layers with several gzip members, or with bytes after the last one"
        )
    sparse = next((entry.path for entry, _ in entries if entry.sparse is not None), None)
    if sparse is not None:
        raise UnsupportedError(f"SOCI cannot represent sparse files such as '{printable(sparse[:255])}'")
    builder = Builder()
    version, tool_position, toc, spans = builder.table(0, "ooqqoo", summary.blob_size, layer.size)
    builder.string(version, VERSION)
    builder.string(tool_position, tool.encode())
    (metadata,) = builder.table(toc, "o")
    for position, (entry, offset) in zip(builder.vector(metadata, len(entries)), entries, strict=True):
        _write_entry(builder, position, entry, offset)
    gzip = summary.codec == "gzip"
    digests_position, checkpoints = builder.table(spans, "bioo", GZIP if gzip else UNCOMPRESSED, len(digests) - 1)
    for position, digest in zip(builder.vector(digests_position, len(digests)), digests, strict=True):
        builder.string(position, b"sha256:" + digest.hex().encode())
    builder.string(checkpoints, _gzip_points(layer, chosen) if gzip else _tar_points(layer, chosen))
    return Written(bytes(builder.out), chosen)


def _choose_spans(layer: Layer) -> list[int]:
    """Return the spans of the layer at which the spans of the zTOC begin."""
    starts = layer.index.starts
    if layer.index.summary.codec == "tar":  # whose spans have equal sizes
        return list(range(0, layer.index.span_count, max(1, SPAN // max(1, layer.span_size(0)))))
    chosen = [0]
    for number in range(1, layer.index.span_count):
        if starts[number + 1] - starts[chosen[-1]] > SPAN:
            chosen.append(number)
    return chosen


def _decoded(layer: Layer, chosen: list[int], digests: list[bytes], tail: bytearray) -> Iterator[bytes]:
    """Yield the tar stream; append the digests of the zTOC's spans and the blob's last four bytes to the arguments."""
    data = b""
    for begin, end in pairwise([*chosen, layer.index.span_count]):
        hasher = hashlib.sha256()
        for number in range(begin, end):
            data = layer.stored(number)
            shared = number > begin and layer.index.summary.bits[number] > 0
            hasher.update(memoryview(data)[shared:])
            yield layer.decoder(number, data).read(layer.span_size(number))
        digests.append(hasher.digest())
    tail += data[-4:]


def _gzip_points(layer: Layer, chosen: list[int]) -> bytes:
    points = [GZIP_HEAD.pack(len(chosen), SPAN)]
    for number in chosen:
        point = layer.index.checkpoint(number)
        window = point.window.rjust(WINDOW, b"\0")
        points.append(GZIP_POINT.pack(point.offset + (point.bits > 0), point.start, point.bits, window))
    return b"".join(points)


def _tar_points(layer: Layer, chosen: list[int]) -> bytes:
    size = layer.index.starts[chosen[1]] if len(chosen) > 1 else layer.size
    if any(layer.index.starts[number] != position * size for position, number in enumerate(chosen)):
        raise UnsupportedError("SOCI cannot represent spans of different sizes in an uncompressed layer")
    return TAR_POINTS.pack(2, size, layer.size)


def _write_entry(builder: Builder, position: int, entry: Entry, offset: int) -> None:
    has_target, has_xattrs = ("o" if entry.linkname else "-"), ("o" if entry.xattrs else "-")
    name, kind, *positions = builder.table(
        position,
        f"ooqq{has_target}qII--oqq{has_xattrs}",
        offset,
        entry.size,
        entry.mode,
        entry.uid,
        entry.gid,
        *entry.rdev,
    )
    builder.string(name, entry.path)
    builder.string(kind, KINDS[entry.kind])
    if entry.linkname:
        builder.string(positions.pop(0), entry.linkname)
    builder.string(positions.pop(0), format_time(entry.mtime_ns).encode())
    for xattrs in positions:
        for each, (key, value) in zip(builder.vector(xattrs, len(entry.xattrs)), entry.xattrs.items(), strict=True):
            key_position, value_position = builder.table(each, "oo")
            builder.string(key_position, b"SCHILY.xattr." + key)
            builder.string(value_position, value)
