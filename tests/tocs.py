"""Layers that carry a TOC, from the tar that is to be in them: eStargz, and zstd:chunked in both dialects.

Of extended attributes a TOC has what Go's archive/tar keeps: no empty values, and nothing that is libarchive's.
Written from the formats' descriptions, to hold ocifs against. `alter` changes the TOC before it is written, so that it
lies or is malformed.
"""

import base64
import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import zstandard

from tests import images, tars
from tests.images import Json, to_json

Document = dict[str, Any]
Alter = Callable[[Document], object]

C_STORAGE, STARGZ = "io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."
ESTARGZ_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
CHUNK = 4 << 20

_TYPES = {
    tarfile.REGTYPE: "reg",
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.DIRTYPE: "dir",
    tarfile.FIFOTYPE: "fifo",
}


@dataclass(frozen=True)
class TocLayer(images.Layer):
    """A layer whose blob is as it was written. `tar` is what it decompresses to."""

    stored: bytes = b""

    @property
    def blob(self) -> bytes:
        return self.stored

    def unannotated(self) -> "TocLayer":
        """Return the same with a descriptor that tells nothing."""
        return TocLayer(self.tar, self.compression, stored=self.stored)


class _Member(NamedTuple):
    headers: bytes
    """With the padding of the member before."""
    data: bytes
    entry: Document


def _members(tar: bytes) -> Iterator[_Member]:
    """Yield the members of a tar, with what a TOC says of each except its position."""
    end = 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for info in archive:
            data = tar[info.offset_data : info.offset_data + info.size] if info.isreg() else b""
            yield _Member(tar[end : info.offset_data], data, _entry(info, data))
            end = info.offset_data + len(data)


def _entry(info: tarfile.TarInfo, data: bytes) -> Document:
    xattrs = {key[13:]: value for key, value in info.pax_headers.items() if key.startswith("SCHILY.xattr.") and value}
    entry: Document = {
        "name": info.name + "/" * info.isdir(),
        "type": _TYPES[info.type],
        "mode": info.mode,
        "uid": info.uid,
        "gid": info.gid,
        "modtime": datetime.fromtimestamp(info.mtime, UTC).isoformat().replace("+00:00", "Z"),
    }
    if info.linkname:
        entry["linkName"] = info.linkname
    if info.ischr() or info.isblk():
        entry |= {"devMajor": info.devmajor, "devMinor": info.devminor}
    if xattrs:
        entry["xattrs"] = {
            name: base64.b64encode(value.encode("utf-8", "surrogateescape")).decode() for name, value in xattrs.items()
        }
    if info.isreg():
        entry |= {"size": len(data), "digest": _sha256(data)}
    return entry


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _Blob:
    """A blob of members or frames, each of some bytes of the tar."""

    def __init__(self, compress: Callable[[bytes], bytes]) -> None:
        self.compress = compress
        self.data = b""
        self.tar = b""
        self.open = b""

    def add(self, data: bytes) -> None:
        """Add to the member that is open."""
        self.open += data

    def border(self) -> int:
        """Let a member begin; return where."""
        if self.open:
            self.data += self.compress(self.open)
            self.tar += self.open
            self.open = b""
        return len(self.data)


def estargz(
    tar: bytes, *, chunk: int = CHUNK, grouped: bool = False, alter: Alter = lambda toc: None, header: bytes = b""
) -> TocLayer:
    """Return an eStargz with the members of `tar`; `grouped`: all small files in one member, as few as there can be.

    `header` replaces the TOC's own in the tar.
    """
    blob = _Blob(lambda data: gzip.compress(data, mtime=0))
    entries: list[Document] = []
    for headers, data, entry in _members(tar):
        blob.add(headers)
        entries.append(entry)
        for place in range(0, len(data), chunk):
            piece = data[place : place + chunk]
            if place:
                entries.append({"name": entry["name"], "type": "chunk"})
            if grouped and blob.open:
                entries[-1] |= {"offset": len(blob.data), "innerOffset": len(blob.open)}
            else:
                entries[-1] |= {"offset": blob.border()}
            entries[-1] |= {"chunkOffset": place, "chunkDigest": _sha256(piece)}
            if len(data) - place > chunk:
                entries[-1]["chunkSize"] = chunk
            blob.add(piece)
    blob.add(bytes(-(len(blob.tar) + len(blob.open)) % 512))
    document: Document = {"version": 1, "entries": entries}
    altered = alter(document)
    data = altered if isinstance(altered, bytes) else json.dumps(document, indent="\t").encode()
    place = blob.border()
    blob.add((header or tars.header(b"stargz.index.json", len(data), mode=0)) + data + bytes(-len(data) % 512 + 1024))
    blob.border()
    annotations = {ESTARGZ_DIGEST: _sha256(data)}
    return TocLayer(blob.tar, "gzip", descriptor={"annotations": annotations}, stored=blob.data + footer(place))


def footer(place: int, mark: bytes = b"STARGZ") -> bytes:
    """Return an eStargz footer: a gzip member of nothing, with a field that tells of the TOC."""
    field = b"%016x%s" % (place, mark)
    extra = b"SG" + struct.pack("<H", len(field)) + field
    return b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra + b"\1\0\0\xff\xff" + bytes(8)


def zstd_chunked(
    tar: bytes, *, dialect: str = C_STORAGE, chunk: int = CHUNK, alter: Alter = lambda toc: None
) -> TocLayer:
    """Return a zstd:chunked layer with the members of `tar`, as containers/storage or stargz-snapshotter writes it.

    The former tells where files end, has frames for headers, and finds zeros, here whole chunks of them.
    """
    c_storage = dialect == C_STORAGE
    blob = _Blob(zstandard.compress)
    entries: list[Document] = []
    for headers, data, entry in _members(tar):
        blob.add(headers)
        entries.append(entry)
        for place in range(0, len(data), chunk):
            piece = data[place : place + chunk]
            if place:
                entries.append({"name": entry["name"], "type": "chunk"})
            entries[-1] |= {"offset": blob.border(), "chunkOffset": place}
            blob.add(piece)
            if len(data) > chunk:
                entries[-1] |= {"chunkSize": len(piece), "chunkDigest": _sha256(piece)}
                if c_storage and not any(piece):
                    entries[-1]["chunkType"] = "zeros"
        if c_storage and data:
            entry["endOffset"] = blob.border()
    blob.add(bytes(-(len(blob.tar) + len(blob.open)) % 512 + 1024))
    end = blob.border()
    document: Document = {"version": 1, "entries": entries}
    altered = alter(document)
    data = altered if isinstance(altered, bytes) else to_json(document)
    stored = zstandard.compress(data)
    before = skippable(zstandard.compress(b"tar-split")) if c_storage else b""
    place = end + len(before) + 8
    foot = struct.pack("<QQQQ", place, len(stored), len(data), 1)
    foot += struct.pack("<QQQ", end + 8, len(before) - 8, 9) + b"GNUlInUx" if c_storage else b"GnUlInUx"
    annotations: Json = {
        f"{dialect}manifest-checksum": _sha256(stored),
        f"{dialect}manifest-position": f"{place}:{len(stored)}:{len(data)}:1",
    }
    if c_storage:
        annotations[f"{dialect}tarsplit-position"] = f"{end + 8}:{len(before) - 8}:9"
    written = blob.data + before + skippable(stored) + skippable(foot)
    return TocLayer(blob.tar, "zstd", descriptor={"annotations": annotations}, stored=written)


def skippable(data: bytes) -> bytes:
    """Return a zstd frame that decoders skip."""
    return b"\x50\x2a\x4d\x18" + struct.pack("<I", len(data)) + data


WRITERS: dict[str, Callable[..., TocLayer]] = {
    "estargz": estargz,
    "c-storage": zstd_chunked,
    "stargz-zstd": lambda tar, **options: zstd_chunked(tar, dialect=STARGZ, **options),
}
