"""zTOCs read and written from the format's description alone, without code of ocifs.

FlatBuffers by struct, tar by tarfile, inflating by zlib, checkpoints of gzip by indexed_gzip's GZIDX files.
"""

import ctypes
import datetime as dt
import hashlib
import io
import struct
import tarfile
import tempfile
from typing import Any, NamedTuple

import indexed_gzip

Field = tuple[str, int] | int | None
"""A number with its struct format, the position of something written, or nothing."""

TYPES = {
    tarfile.REGTYPE: b"reg", tarfile.AREGTYPE: b"reg", tarfile.LNKTYPE: b"hardlink", tarfile.SYMTYPE: b"symlink",
    tarfile.CHRTYPE: b"char", tarfile.BLKTYPE: b"block", tarfile.DIRTYPE: b"dir", tarfile.FIFOTYPE: b"fifo",
}  # fmt: skip


class Point(NamedTuple):
    """A checkpoint of gzip, as a zTOC keeps it."""

    offset: int
    start: int
    bits: int
    window: bytes


# Reading


def decode(data: bytes) -> dict[str, Any]:
    """Return what is in a zTOC."""

    def number(form: str, at: int) -> int:
        value: int = struct.unpack_from(f"<{form}", data, at)[0]
        return value

    def table(at: int) -> list[int]:
        """Return the place of each field, 0 for those left out, many enough."""
        vtable = at - number("i", at)
        slots = [number("H", vtable + place) for place in range(4, number("H", vtable), 2)]
        return [at + slot if slot else 0 for slot in slots] + [0] * 14

    def target(at: int) -> int:
        return at + number("I", at)

    def string(at: int) -> bytes:
        if not at:
            return b""
        start = target(at)
        return data[start + 4 : start + 4 + number("I", start)]

    def vector(at: int) -> list[int]:
        if not at:
            return []
        start = target(at)
        return [start + 4 + 4 * n for n in range(number("I", start))]

    def scalar(form: str, at: int, default: int = 0) -> int:
        assert at % struct.calcsize(form) == 0, "not aligned"
        return number(form, at) if at else default

    root = table(target(0))
    entries = []
    for at in vector(table(target(root[4]))[0]):
        entry = table(target(at))
        xattrs = [table(target(place)) for place in vector(entry[13])]
        entries.append(
            {
                "name": string(entry[0]), "type": string(entry[1]), "offset": scalar("q", entry[2]),
                "size": scalar("q", entry[3]), "linkname": string(entry[4]), "mode": scalar("q", entry[5]),
                "uid": scalar("I", entry[6]), "gid": scalar("I", entry[7]), "mtime": string(entry[10]),
                "device": (scalar("q", entry[11]), scalar("q", entry[12])),
                "xattrs": {string(key): string(value) for key, value, *_ in xattrs},
            }
        )  # fmt: skip
    spans = table(target(root[5]))
    return {
        "version": string(root[0]),
        "tool": string(root[1]),
        "blob_size": scalar("q", root[2]),
        "size": scalar("q", root[3]),
        "entries": entries,
        "algorithm": scalar("b", spans[0], 1),
        "max_span_id": scalar("i", spans[1]),
        "digests": [string(at) for at in vector(spans[2])],
        "checkpoints": string(spans[3]),
    }


def points_of(checkpoints: bytes) -> list[Point]:
    """Return the checkpoints of gzip."""
    count, _ = struct.unpack_from("<iq", checkpoints)
    assert len(checkpoints) == 12 + 32785 * count
    return [Point(*struct.unpack_from("<qqB32768s", checkpoints, 12 + 32785 * n)) for n in range(count)]


def read_file(blob: bytes, ztoc: dict[str, Any], entry: dict[str, Any]) -> bytes:
    """Return the bytes of an entry, from the spans that it lies in alone, each held against its digest."""
    content = b""
    for number, (start, end) in enumerate(spans_of(ztoc)):
        begin, stop = max(entry["offset"], start), min(entry["offset"] + entry["size"], end)
        if begin < stop:
            content += span(blob, ztoc, number)[begin - start : stop - start]
    return content


def spans_of(ztoc: dict[str, Any]) -> list[tuple[int, int]]:
    """Return where each span lies in the tar stream."""
    if ztoc["algorithm"] == 2:
        _, size, _ = struct.unpack("<iqq", ztoc["checkpoints"])
        starts = list(range(0, ztoc["size"], size))
    else:
        starts = [point.start for point in points_of(ztoc["checkpoints"])]
    return list(zip(starts, [*starts[1:], ztoc["size"]], strict=True))


def span(blob: bytes, ztoc: dict[str, Any], number: int) -> bytes:
    """Return a span, decoded."""
    start, end = spans_of(ztoc)[number]
    if ztoc["algorithm"] == 2:
        stored = blob[start:end]
        assert ztoc["digests"][number].decode() == f"sha256:{hashlib.sha256(stored).hexdigest()}"
        return stored
    points = points_of(ztoc["checkpoints"])
    point = points[number]
    stop = points[number + 1].offset if number + 1 < len(points) else len(blob)
    stored = blob[point.offset - (point.bits > 0) : stop]
    assert ztoc["digests"][number].decode() == f"sha256:{hashlib.sha256(stored).hexdigest()}"
    return inflate(stored, point.bits, point.window, end - start)


class _Stream(ctypes.Structure):
    """zlib's z_stream."""

    _fields_ = (
        ("next_in", ctypes.c_char_p), ("avail_in", ctypes.c_uint), ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p), ("avail_out", ctypes.c_uint), ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p), ("state", ctypes.c_void_p), ("zalloc", ctypes.c_void_p), ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p), ("data_type", ctypes.c_int), ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )  # fmt: skip


def inflate(stored: bytes, bits: int, window: bytes, size: int) -> bytes:
    """Inflate a span that begins with the top `bits` of its first byte, if any.

    By zlib itself, because Python's module has no inflatePrime, without which a stored block would not find its border.
    """
    zlib = ctypes.CDLL("libz.so.1")
    out = ctypes.create_string_buffer(size)
    rest = stored[1:] if bits else stored
    stream = _Stream(next_in=rest, avail_in=len(rest), next_out=ctypes.addressof(out), avail_out=size)
    zlib.zlibVersion.restype = ctypes.c_char_p
    assert zlib.inflateInit2_(ctypes.byref(stream), -15, zlib.zlibVersion(), ctypes.sizeof(_Stream)) == 0
    try:
        if bits:
            assert zlib.inflatePrime(ctypes.byref(stream), bits, stored[0] >> (8 - bits)) == 0
        assert zlib.inflateSetDictionary(ctypes.byref(stream), window, len(window)) == 0
        assert zlib.inflate(ctypes.byref(stream), 0) in {0, 1}, stream.msg
        return out.raw[: size - stream.avail_out]
    finally:
        zlib.inflateEnd(ctypes.byref(stream))


# Writing


class Writer:
    """A FlatBuffer, written from its end to its front, as the reference implementation does."""

    def __init__(self) -> None:
        self.data = b""

    def _prepend(self, data: bytes, align: int, rest: int = 0) -> int:
        """Put data in front, so that what is `rest` bytes into it is aligned; return its distance from the end."""
        self.data = bytes((rest - len(self.data) - len(data)) % align) + self.data if align else self.data
        self.data = data + self.data
        return len(self.data)

    def string(self, data: bytes) -> int:
        return self._prepend(struct.pack("<I", len(data)) + data + bytes(4 - len(data) % 4), 4)

    def vector(self, places: list[int]) -> int:
        whole = len(self.data) + 4 * len(places)
        offsets = b"".join(struct.pack("<I", whole - 4 * n - place) for n, place in enumerate(places))
        return self._prepend(struct.pack("<I", len(places)) + offsets, 4)

    def table(self, *fields: Field) -> int:
        """Write a table without sharing its vtable: widest fields first."""
        self.data = bytes(-len(self.data) % 8) + self.data
        order = sorted((n for n, field in enumerate(fields) if field is not None), key=lambda n: -_width(fields[n]))
        places, end = [0] * len(fields), 4
        for n in order:
            end += -(end + 4) % _width(fields[n])  # the table begins 4 bytes after a multiple of 8
            places[n] = end
            end += _width(fields[n])
        end += -(end + 4) % 8
        total = len(self.data) + end
        body = bytearray(end)
        for n in order:
            field = fields[n]
            assert field is not None
            form, value = ("I", total - places[n] - field) if isinstance(field, int) else field
            struct.pack_into("<" + form, body, places[n], value)
        vtable = struct.pack(f"<{2 + len(places)}H", 4 + 2 * len(places), end, *places)
        pad = bytes((4 - len(vtable)) % 8)  # before it, so that all ends at a multiple of 4 that is none of 8
        struct.pack_into("<i", body, 0, len(vtable))
        self.data = bytes(body) + self.data
        place = len(self.data)
        self.data = pad + vtable + self.data
        return place

    def finish(self, root: int) -> bytes:
        self.data = bytes((4 - len(self.data)) % 8) + self.data
        return struct.pack("<I", len(self.data) + 4 - root) + self.data


def _width(field: Field) -> int:
    return struct.calcsize(field[0]) if isinstance(field, tuple) else 4


def gzip_points(blob: bytes, spacing: int) -> list[Point]:
    """Return the checkpoints that indexed_gzip finds in a blob of one member."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(blob)
        file.flush()
        with indexed_gzip.IndexedGzipFile(file.name, spacing=spacing) as reading:
            reading.build_full_index()
            exported = io.BytesIO()
            reading.export_index(fileobj=exported)
    data = exported.getvalue()
    _, size, _, _, count = struct.unpack_from("<QQIII", data, 7)
    at = 7 + 28
    points = [struct.unpack_from("<QQBB", data, at + 18 * n) for n in range(count)]
    at += 18 * count
    found = []
    for offset, start, bits, has_window in points:
        window = data[at : at + 32768] if has_window else bytes(32768)
        at += 32768 * has_window
        if start < size:
            found.append(Point(offset, start, bits, window))
    return found


def write(
    blob: bytes,
    tar: bytes,
    *,
    spacing: int = 1 << 20,
    first_version: bool = False,
    points: list[Point] | None = None,
    **changes: Any,
) -> bytes:
    """Return the zTOC of a layer; `changes` replace what `decode` calls by these names."""
    if blob == tar:
        algorithm, checkpoints = 2, struct.pack("<iqq", 2, spacing, len(tar))
        cuts = [(start, min(start + spacing, len(tar))) for start in range(0, len(tar), spacing)]
    else:
        algorithm, points = 1, points or gzip_points(blob, spacing)
        stops = [*(point.offset for point in points[1:]), len(blob)]
        cuts = [(point.offset - (point.bits > 0), stop) for point, stop in zip(points, stops, strict=True)]
        packed = [struct.pack("<qqB32768s", *point) for point in points]
        checkpoints = struct.pack("<iq", len(points), spacing) + b"".join(packed[first_version:])
    entries = entries_of(tar)
    end = max((entry["offset"] + -(-entry["size"] // 512) * 512 for entry in entries), default=0)
    ztoc = {
        "version": b"0.9",
        "tool": b"independent",
        "blob_size": len(blob),
        "size": end + 1024,  # up to the end of the archive, whatever follows it
        "entries": entries,
        "algorithm": algorithm,
        "max_span_id": len(cuts) - 1,
        "digests": [f"sha256:{hashlib.sha256(blob[start:stop]).hexdigest()}".encode() for start, stop in cuts],
        "checkpoints": checkpoints,
    }
    return encode(ztoc | changes)


def entries_of(tar: bytes) -> list[dict[str, Any]]:
    """Return the entries of a tar stream, as `decode` does."""
    entries = []
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as archive:
        for member in archive:
            time = dt.datetime.fromtimestamp(int(float(member.mtime)), dt.UTC)
            fraction = str(member.pax_headers.get("mtime", "")).partition(".")[2]
            entries.append(
                {
                    "name": _raw(member.name) + (b"/" if member.isdir() else b""),
                    "type": TYPES[member.type],
                    "offset": member.offset_data,
                    "size": member.size if member.isreg() else 0,
                    "linkname": _raw(member.linkname),
                    "mode": member.mode,
                    "uid": member.uid,
                    "gid": member.gid,
                    "mtime": (f"{time:%Y-%m-%dT%H:%M:%S}" + (f".{fraction}" if fraction else "") + "Z").encode(),
                    "device": (member.devmajor, member.devminor) if member.isdev() else (0, 0),
                    "xattrs": {_raw(key): _raw(value) for key, value in member.pax_headers.items()},
                }
            )
    return entries


def encode(ztoc: dict[str, Any]) -> bytes:
    """Return the zTOC that `decode` takes apart."""
    out = Writer()
    tables = []
    for entry in reversed(ztoc["entries"]):
        xattrs = [out.table(out.string(key), out.string(value)) for key, value in sorted(entry["xattrs"].items())]
        tables.append(
            out.table(
                out.string(entry["name"]), out.string(entry["type"]), ("q", entry["offset"]), ("q", entry["size"]),
                out.string(entry["linkname"]), ("q", entry["mode"]), ("I", entry["uid"]), ("I", entry["gid"]),
                out.string(b"root"), out.string(b"root"), out.string(entry["mtime"]), ("q", entry["device"][0]),
                ("q", entry["device"][1]), out.vector(xattrs),
            )
        )  # fmt: skip
    toc = out.table(out.vector(tables[::-1]))
    checkpoints = out.string(ztoc["checkpoints"])
    digests = out.vector([out.string(digest) for digest in ztoc["digests"]])
    algorithm = ("b", ztoc["algorithm"]) if ztoc["algorithm"] != 1 else None
    spans = out.table(algorithm, ("i", ztoc["max_span_id"]), digests, checkpoints)
    version, tool = out.string(ztoc["version"]), out.string(ztoc["tool"])
    sizes = ("q", ztoc["blob_size"]), ("q", ztoc["size"])
    return out.finish(out.table(version, tool, *sizes, toc, spans))


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
