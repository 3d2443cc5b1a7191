"""Layers from literals, and hot packs made of them."""

import os
import random
from collections.abc import Sequence

from ocifs.hotpack.build import build_pack
from ocifs.hotpack.format import PackTable, Stream, read_table
from ocifs.hotpack.recording import Range
from ocifs.layer.build import LayerBlob, open_layer_index
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import Limits
from ocifs.reader import BytesReader, FileReader, ReaderAt
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Store
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


def opened(layers: Sequence[Layer], data: bytes, limit: int = 64 * MIB) -> tuple[ReaderAt, PackTable]:
    """Open a pack."""
    return BytesReader(data), read_table(BytesReader(data), streams(layers), limit)
