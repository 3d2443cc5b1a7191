"""Layers from literals, and hot packs made of them."""

import hashlib
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import zstandard

from ocifs.hotpack.build import build_pack
from ocifs.hotpack.format import Block, PackTable, Stream, encode_head, read_table
from ocifs.hotpack.recording import Range
from ocifs.image.hot_pack import pack_name
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import Limits
from ocifs.reader import BytesReader, FileReader, ReaderAt
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Store
from ocifs.store.entry import file_name
from tests import images, tars

MIB = 1 << 20


def tar_of(size: int, seed: int) -> bytes:
    """Return a tar with a file that compresses to about half."""
    data = random.Random(seed).randbytes(size // 2)
    return tars.tar([tars.file(b"file", bytes(byte for each in data for byte in (each, 7)))])


def layer_of(number: int, tar: bytes) -> Layer:
    """Index a tar, compressed with gzip; its files stay open."""
    blob = images.Layer(tar, "gzip").blob
    fd = os.memfd_create("blob")
    os.write(fd, blob)
    of = LayerBlob(Digest(images.digest(blob)), DiffID(Digest(images.digest(tar))), FileReader(fd))
    index = open_layer_index(of, Store(None), Limits(), lambda message: None, lambda layer, done, total: None)
    return Layer(number, index, of.blob, SpanCache())  # type: ignore[arg-type]


def streams(layers: Sequence[Layer]) -> list[Stream]:
    return [Stream(layer.index.stream, layer.size) for layer in layers]


def pack_of(layers: Sequence[Layer], found: list[Range], limit: int = 64 * MIB) -> bytes:
    """Return a pack of ranges."""
    return b"".join(build_pack(layers, lambda skip: found, limit).parts)


def forged(
    layers: Sequence[Layer], found: Sequence[Range], alter: Callable[[bytes], bytes], per_frame: int = 1
) -> bytes:
    """Return a pack whose blocks, one for each range, have altered bytes and the digests of these."""
    frames = []
    for first in range(0, len(found), per_frame):
        blocks, data = [], b""
        for number, begin, end in found[first : first + per_frame]:
            piece = alter(layers[number].pread(end - begin, begin))
            blocks.append(Block(number, begin, len(piece), hashlib.sha256(piece).digest()))
            data += piece
        frames.append((blocks, zstandard.compress(data)))
    head = encode_head(tuple(layer.index.stream for layer in layers), [(made, len(data)) for made, data in frames], ())
    return head + b"".join(data for _, data in frames)


def save(store: Store, layers: Sequence[Layer], data: bytes) -> Path:
    """Put a pack of layers into the cache as their own; return its path."""
    assert store.directory is not None
    kind, subject = pack_name(layers)
    store.get(kind, subject, lambda out: out.write(data), anew=True).close()
    return store.directory / "entries" / file_name(kind, subject)


def opened(layers: Sequence[Layer], data: bytes, limit: int = 64 * MIB) -> tuple[ReaderAt, PackTable]:
    """Open a pack."""
    return BytesReader(data), read_table(BytesReader(data), streams(layers), limit)
