import bz2
import gzip
import lzma

import pytest
import zstandard

from ocifs.errors import UnsupportedError
from ocifs.reader import BytesReader
from ocifs.sources.magic import compression_of, format_of, sniff_layer
from tests import tars

TAR = tars.tar([tars.file(b"name", b"data")])


@pytest.mark.parametrize(
    ("data", "compression"),
    [
        (b"", "tar"),
        (TAR, "tar"),
        (bytes(1024), "tar"),
        (tars.file(b"BZh9", b"a tar whose first name begins as bzip2 does"), "tar"),
        (gzip.compress(TAR, mtime=0), "gzip"),
        (gzip.compress(b"", mtime=0), "gzip"),
        (zstandard.compress(TAR), "zstd"),
        (bytes.fromhex("502a4d18 00000000") + zstandard.compress(TAR), "zstd"),
        (bytes.fromhex("5f2a4d18 00000000") + zstandard.compress(TAR), "zstd"),
    ],
)
def test_layers(data: bytes, compression: str) -> None:
    assert sniff_layer(BytesReader(data), "it") == compression


@pytest.mark.parametrize(
    ("data", "compression"),
    [
        (bz2.compress(TAR), "bzip2"),
        (bz2.compress(b""), "bzip2"),
        (lzma.compress(TAR), "xz"),
        (bytes.fromhex("04224d18"), "lz4"),
        (bytes.fromhex("02214c18"), "lz4"),
    ],
)
def test_compressions_that_are_not_read(data: bytes, compression: str) -> None:
    assert compression_of(data) == compression
    with pytest.raises(UnsupportedError, match=f"^it is compressed with {compression}: recompress"):
        sniff_layer(BytesReader(data), "it")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"", "empty"),
        (TAR, None),
        (bytes(512), None),
        (bytes(range(128, 256)), None),
        (gzip.compress(TAR, mtime=0), "gzip"),
        (b'{"a":1}', "JSON"),
        (b" [1]", "JSON"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"<HTML>", "HTML"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (b"plain", "text"),
        ("caf\u00e9".encode()[:-1], "text"),
        ("\u20ac".encode() * 200, "text"),
    ],
)
def test_formats(head: bytes, name: str | None) -> None:
    assert format_of(head) == name
