"""From a layer to its zTOC.

The layer is read once, span by span, each proven by its digest: what is written down is what is there. It has fewer
checkpoints than the LayerIndex, because a zTOC keeps their windows as they are: one for every 4 MiB, as SOCI has it.
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
"""Bytes of the tar stream between checkpoints, as near as those of the LayerIndex allow."""


class Written(NamedTuple):
    """A zTOC."""

    data: bytes
    spans: list[int]
    """At which spans of the LayerIndex its own begin."""


def write_ztoc(layer: Layer, tool: str) -> Written:
    """Return the zTOC of a layer; `tool` says who made it.

    Raises:
        UnsupportedError: The layer has something that a zTOC cannot tell.
        InvalidImageError, NotFoundError, RegistryError: The layer cannot be read.
    """
    summary = layer.index.summary
    if summary.reframed or summary.codec == "zstd":
        raise UnsupportedError("SOCI has no form for layers that are compressed with zstd, or have nowhere to restart")
    kept = _kept(layer)
    digests: list[bytes] = []
    tail = bytearray()
    stream = ChunkReader(_decoded(layer, kept, digests, tail))
    found = list(members(stream, warn=lambda message: None))
    stream.drain()
    if summary.codec == "gzip" and int.from_bytes(tail, "little") != layer.size % (1 << 32):
        raise UnsupportedError("SOCI has no form for layers of several gzip members, or with bytes behind the last one")
    sparse = next((entry.path for entry, _ in found if entry.sparse is not None), None)
    if sparse is not None:
        raise UnsupportedError(f"SOCI has no form for sparse files, as '{printable(sparse[:255])}' is one")
    builder = Builder()
    version, tool_at, toc, spans = builder.table(0, "ooqqoo", summary.blob_size, layer.size)
    builder.string(version, VERSION)
    builder.string(tool_at, tool.encode())
    (metadata,) = builder.table(toc, "o")
    for at, (entry, offset) in zip(builder.vector(metadata, len(found)), found, strict=True):
        _write_entry(builder, at, entry, offset)
    gzip = summary.codec == "gzip"
    digests_at, checkpoints = builder.table(spans, "bioo", GZIP if gzip else UNCOMPRESSED, len(digests) - 1)
    for at, digest in zip(builder.vector(digests_at, len(digests)), digests, strict=True):
        builder.string(at, b"sha256:" + digest.hex().encode())
    builder.string(checkpoints, _gzip_points(layer, kept) if gzip else _tar_points(layer, kept))
    return Written(bytes(builder.out), kept)


def _kept(layer: Layer) -> list[int]:
    """Return at which spans of the layer those of the zTOC begin."""
    starts = layer.index.starts
    if layer.index.summary.codec == "tar":  # whose spans are all equal
        return list(range(0, layer.index.span_count, max(1, SPAN // max(1, layer.span_size(0)))))
    kept = [0]
    for number in range(1, layer.index.span_count):
        if starts[number + 1] - starts[kept[-1]] > SPAN:
            kept.append(number)
    return kept


def _decoded(layer: Layer, kept: list[int], digests: list[bytes], tail: bytearray) -> Iterator[bytes]:
    """Give the tar stream; meanwhile note the digests of the spans that are kept, and the blob's last four bytes."""
    data = b""
    for begin, end in pairwise([*kept, layer.index.span_count]):
        hasher = hashlib.sha256()
        for number in range(begin, end):
            data = layer.stored(number)
            shared = number > begin and layer.index.summary.bits[number] > 0
            hasher.update(memoryview(data)[shared:])
            yield layer.decoder(number, data).read(layer.span_size(number))
        digests.append(hasher.digest())
    tail += data[-4:]


def _gzip_points(layer: Layer, kept: list[int]) -> bytes:
    points = [GZIP_HEAD.pack(len(kept), SPAN)]
    for number in kept:
        point = layer.index.checkpoint(number)
        window = point.window.rjust(WINDOW, b"\0")
        points.append(GZIP_POINT.pack(point.offset + (point.bits > 0), point.start, point.bits, window))
    return b"".join(points)


def _tar_points(layer: Layer, kept: list[int]) -> bytes:
    size = layer.index.starts[kept[1]] if len(kept) > 1 else layer.size
    if any(layer.index.starts[number] != place * size for place, number in enumerate(kept)):
        raise UnsupportedError("SOCI has no form for spans of different sizes in a layer that is not compressed")
    return TAR_POINTS.pack(2, size, layer.size)


def _write_entry(builder: Builder, at: int, entry: Entry, offset: int) -> None:
    has_target, has_xattrs = ("o" if entry.linkname else "-"), ("o" if entry.xattrs else "-")
    name, kind, *places = builder.table(
        at,
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
        builder.string(places.pop(0), entry.linkname)
    builder.string(places.pop(0), format_time(entry.mtime_ns).encode())
    for xattrs in places:
        for place, (key, value) in zip(builder.vector(xattrs, len(entry.xattrs)), entry.xattrs.items(), strict=True):
            key_at, value_at = builder.table(place, "oo")
            builder.string(key_at, b"SCHILY.xattr." + key)
            builder.string(value_at, value)
