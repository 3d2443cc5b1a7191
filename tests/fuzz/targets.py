"""Readers of what an image or the cache holds, each as a function that takes any bytes.

A target ends quietly whatever it is given: it lets OcifsErrors pass whose text is one printable line, and checks what
was read where anything was. Whatever else comes out of it is a defect.
"""

import atexit
import errno
import hashlib
import io
import os
import shutil
import socket
import ssl
import stat
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import zstandard

from ocifs.bundle.config import Host, runtime_spec
from ocifs.bundle.overrides import Overrides
from ocifs.bundle.paths import absolute_path
from ocifs.bundle.runtime_spec import to_json
from ocifs.compression import Pass, gzip, zstd
from ocifs.compression.gzidx import read_gzidx
from ocifs.erofs.reader import TreeImage
from ocifs.erofs.writer import compile_tree
from ocifs.errors import NotFoundError, OcifsError
from ocifs.hotpack.format import Head, Stream, read_table
from ocifs.hotpack.pack import HotPack
from ocifs.image.passwd import Accounts
from ocifs.indexes.candidate import CONVERTED, check_index
from ocifs.indexes.chunked import read_toc, table_of, write_index
from ocifs.indexes.ztoc.read import read_ztoc, size_of_gzip
from ocifs.indexes.ztoc.read import write_index as write_index_of_ztoc
from ocifs.layer.chunked.document import items_of
from ocifs.layer.chunked.table import make_table
from ocifs.layer.index import open_index
from ocifs.layer.index_format import KIND, Summary, encode_tail, pack_u64
from ocifs.limits import Limits
from ocifs.reader import BytesReader, FileReader
from ocifs.snapshotter.check.containerd import Expected, check_containerd
from ocifs.snapshotter.check.containerd_config import ContainerdConfig, read_config
from ocifs.sources.blob import memory_blob
from ocifs.sources.layout import open_layout
from ocifs.sources.reference import matching, parse_reference
from ocifs.sources.referrers import NewBlob
from ocifs.sources.registry.blob import RemoteBlob
from ocifs.sources.registry.hosts import host_endpoints, unknown_fields
from ocifs.sources.registry.peer import Credentials, Peer
from ocifs.sources.registry.referrers import list_referrers, push_image
from ocifs.sources.registry.session import Session
from ocifs.sources.registry.source import RegistrySource
from ocifs.sources.registry.timeouts import Timeouts
from ocifs.sources.registry.transport import HttpConnection, HttpPool, HttpsConnection, HttpsPool, HttpTransport
from ocifs.sources.registry.url import parse_url
from ocifs.sources.resolve import ImageLayer, resolve_image
from ocifs.spec.config import parse_config
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import DiffID, Digest
from ocifs.spec.manifest import parse_document
from ocifs.spec.platform import Platform
from ocifs.store import Store
from ocifs.tarsplit import entries as tarsplit
from ocifs.toc import DIRECTORY, ChunkReader, Entry, ReaderForward, pax, scan
from ocifs.tree.merge import changes, merge
from tests import images, tars, tocs
from tests.checkpoints import unpacked
from tests.indexes.ztoc import independent

_CASES = Path(__file__).parent / "cases"
_SMALL = Limits(entries=2000, sparse_pieces=2000, symlink_steps=1 << 16)


class Target(NamedTuple):
    """What is fuzzed, and bytes to begin with."""

    fuzz_one: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


@contextmanager
def _clean_errors() -> Iterator[None]:
    """Let clean errors pass."""
    try:
        yield
    except OcifsError as error:
        if not str(error).isprintable() or len(str(error)) > 40_000:
            raise AssertionError(f"no line to show: {error!r}") from error


# Tar headers, and what is made of them: a tree, and its image.


def sealed(data: bytes) -> bytes:
    """Make right the checksum of all blocks that may be headers, so that changes get past it."""
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for block in blocks:
        if len(block) == 512 and block[257:262] == b"ustar":
            block[148:156] = b"        "
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def fuzz_tar(data: bytes) -> None:
    """Take the first byte for how to go on, the rest for a tar stream of two layers."""
    form, data = data[:1], data[1:]
    if form and form[0] & 1:
        data = sealed(data)
    with _clean_errors():
        entries = scan(ReaderForward(BytesReader(data)), limits=_SMALL, warn=_printable)
        pieces = (data[place : place + 700] for place in range(0, len(data), 700))
        assert scan(ChunkReader(pieces), limits=_SMALL, warn=_printable) == entries
        for entry in entries:
            assert entry.offset % 512 == 0
            assert 0 <= entry.offset <= entry.offset + entry.stored <= len(data)
            assert entry.path or entry.kind == DIRECTORY
            assert b"\0" not in entry.path + entry.linkname
        half = len(entries) // 2 if form and form[0] & 2 else 0
        layers = [entries[:half], entries[half:]]
        sizes = [len(data)] * 2
        root = merge(layers, _printable, _SMALL)
        tree = TreeImage(compile_tree(root, sizes, lambda layer, size, at: data[at : at + size], _printable), sizes)
        _read_tree(tree, sizes)
        for changed in changes(layers, _printable, _SMALL):
            compile_tree(changed, sizes, lambda layer, size, at: data[at : at + size], _printable)


def _printable(message: str) -> None:
    assert message.isprintable()


_SLOT = b"%011o\0%011o\0" % (512, 512)


def _tar_seeds() -> list[bytes]:
    sparse = {b"GNU.sparse.map": b"0,1,600,1", b"GNU.sparse.numblocks": b"2", b"GNU.sparse.size": b"1000"}
    members = [
        tars.directory(b"a/b/", 0o1777) + tars.file(b"a/b/c", b"content") + tars.hardlink(b"h", b"a/b/c"),
        tars.symlink(b"l", b"a/../a/b") + tars.file(b"l/x", b"1") + tars.file(b"l/.wh.c"),
        tars.file(b"b/.wh..wh..opq") + tars.file(b"b/c", b"1"),
        tars.pax({b"path": b"p" * 120, b"mtime": b"1.5", b"SCHILY.xattr.user.a": b"1"}) + tars.file(b"p"),
        tars.long_name(b"n" * 120) + tars.file(b"n") + tars.long_name(b"t" * 120, b"K") + tars.symlink(b"k", b"t"),
        tars.pax(sparse) + tars.file(b"s", b"xy") + tars.header(b"dev", flag=b"3", major=1, minor=3),
        tars.pax({b"uid": b"7"}, b"g") + tars.header(b"f", flag=b"6", mode=0o600) + tars.file(b"../../up", b"u"),
        tars.header(b"o", 512, flag=b"S", magic=tars.GNU, sparse=_SLOT, realsize=1024) + bytes(512),
    ]
    return [form + tars.tar(chosen) for form in (b"\1", b"\3") for chosen in (members, *([each] for each in members))]


# Records of a pax header.


def fuzz_pax(data: bytes) -> None:
    """Read records and what they hold."""
    with _clean_errors():
        records = pax.parse(data)
        assert all(key and b"\0" not in key for key in records)
        plain = {key: value for key, value in records.items() if not key.startswith(b"GNU.sparse.")}
        assert pax.parse(b"".join(tars.record(*each) for each in plain.items())) == plain
        for read in (_pax_mtime, _pax_number, _pax_xattrs):
            with _clean_errors():
                read(records)


def _pax_mtime(records: dict[bytes, bytes]) -> None:
    assert isinstance(pax.mtime(records, b"7\0"), int)


def _pax_number(records: dict[bytes, bytes]) -> None:
    assert pax.integer(records, b"size", b"7\0") >= 0


def _pax_xattrs(records: dict[bytes, bytes]) -> None:
    found = pax.xattrs(records, _SMALL)
    assert sum(len(name) + len(value) for name, value in found.items()) <= _SMALL.xattrs


def _pax_seeds() -> list[bytes]:
    records = {
        b"path": b"a", b"size": b"5", b"mtime": b"-1.25", b"SCHILY.xattr.user.a": b"\0\1", b"GNU.sparse.name": b"b",
        b"LIBARCHIVE.xattr.user%2Eb": b"QUI", b"GNU.sparse.offset": b"0", b"GNU.sparse.numbytes": b"1",
    }  # fmt: skip
    return [b"".join(tars.record(*each) for each in records.items()), *(tars.record(*each) for each in records.items())]


# Checkpoints as indexed_gzip and rapidgzip hand them over.


def fuzz_gzidx(data: bytes) -> None:
    """Take four bytes for the size of the blob, the rest for a GZIDX file."""
    size = int.from_bytes(data[:4], "little")
    with _clean_errors():
        before = (-1, -1)
        for point in read_gzidx(io.BytesIO(data[4:]), size):
            assert 0 <= point.offset <= size
            assert 0 <= point.bits < 8
            assert len(point.window) <= 1 << 15
            assert before <= (point.start, point.offset)
            before = (point.start, point.offset)


def _gzidx_seeds() -> list[bytes]:
    seeds = []
    for version, flags in ((0, [0, 0, 0]), (1, [0, 1, 0])):
        head = struct.pack("<5sBBQQIII", b"GZIDX", version, 0, 1000, 5000, 1 << 20, 16, 3)
        rows = ((10, 0, 0), (400, 2000, 3), (900, 4000, 7))
        points = b"".join(struct.pack("<QQBB", *row, flag) for row, flag in zip(rows, flags, strict=True))
        seeds.append(struct.pack("<I", 1000) + head + points + b"w" * 32)
    return seeds


# LayerIndexes, whole and with the parts that are compressed laid open.


def fuzz_layer_index(data: bytes) -> None:
    """Take the first byte for what the rest is: a file, or summary and TOC."""
    form, data = data[:1], data[1:]
    if form == b"s":
        size = int.from_bytes(data[:2], "little")
        summary, toc = data[2 : 2 + size], zstandard.compress(data[2 + size :])
        data = toc + summary + struct.pack("<QQQ", 0, len(toc), len(summary))
    with _clean_errors():
        index = open_index(cast("FileReader", BytesReader(data)))
        limit = len(data) if index.summary.reframed else index.summary.blob_size
        for span in range(min(index.span_count, 100)):
            offset, size = index.stored_range(span)
            assert 0 <= offset <= offset + size <= limit
            assert len(index.digest(span)) == 32
            with _clean_errors():
                assert len(index.checkpoint(span).window) <= 1 << 15
        assert [(entry.kind, entry.path) for entry in index.toc()] == index.paths()


def fuzz_toc(data: bytes) -> None:
    """Take the first byte for what the rest is: a blob with a TOC that its footer tells of, or the JSON of one."""
    form, data = data[:1], data[1:]
    descriptor = Descriptor(media_type="layer", digest=Digest.of(data), size=len(data))
    layer = ImageLayer(descriptor, DiffID(Digest.of(b"")), "zstd" if form == b"z" else "gzip")
    with _clean_errors():
        if form == b"j":
            table = make_table(items_of(data, _SMALL), len(data), _SMALL)
        else:
            table = table_of(read_toc(lambda begin, end: data[begin:end], layer, None, _SMALL), _SMALL)
        build = partial(write_index, table=table, layer=layer, toc=Digest.of(b""))
        with closing(Store(None).get(CONVERTED, "x", build)) as file:
            index = open_index(file)
            assert len(check_index(index, layer, _SMALL).toc()) == len(table.entries)
            for span in range(min(index.span_count, 100)):
                offset, size = index.stored_range(span)
                assert 0 <= offset <= offset + size <= len(data)
                stored = data[offset : offset + size]
                if (decoded := index.verified(span, stored)) is not None:
                    assert len(decoded) == index.starts[span + 1] - index.starts[span]


def _toc_seeds() -> list[bytes]:
    members = [
        tars.directory(b"d/"), tars.file(b"d/f", b"content"), tars.file(b"holes", b"x" * 70 + bytes(70)),
        tars.symlink(b"l", b"d/f"), tars.hardlink(b"h", b"d/f"), tars.header(b"c", flag=b"3", major=1, minor=3),
    ]  # fmt: skip
    written: list[bytes] = []

    def note(document: tocs.Document) -> None:
        written.append(b"j" + images.to_json(document))

    tar = tars.tar(members)
    blobs = [
        b"g" + tocs.estargz(tar, chunk=64, alter=note).blob,
        b"g" + tocs.estargz(tar, grouped=True).blob,
        b"z" + tocs.zstd_chunked(tar, chunk=70, alter=note).blob,
        b"z" + tocs.zstd_chunked(tar, dialect=tocs.STARGZ).blob,
    ]
    return blobs + written


def _index_seeds() -> list[bytes]:
    toc = [
        Entry(0, b"a", 0o644, 0, 0, 0, 5, 512, 5, xattrs={b"user.x": b"1"}, sparse=((0, 5),)),
        Entry(2, b"l", 0o777, 0, 0, -1, linkname=b"a"),
        Entry(3, b"d", 0o600, 0, 0, 0, rdev=(1, 3)),
    ]
    window = zstandard.compress(b"window")
    summary = Summary(
        blob_digest="sha256:" + "0" * 64, blob_size=3000, diff_id="sha256:" + "1" * 64, size=5000, codec="gzip",
        reframed=False, entries=3, starts=pack_u64([0, 2000, 5000]), offsets=pack_u64([10, 900, 3000]),
        bits=bytes([0, 3, 0]), windows=pack_u64([0, 0, len(window)]), digests=bytes(64), warnings=("odd",),
    )  # fmt: skip
    packed = msgspec.msgpack.encode(summary)
    whole = window + encode_tail(toc, summary, len(window))
    return [b"f" + whole, b"s" + struct.pack("<H", len(packed)) + packed + msgspec.msgpack.encode(toc)]


# Tree images.


def fuzz_tree_image(data: bytes) -> None:
    """Take bytes for a tree image of two layers."""
    sizes = [10_000, 3_000]
    with _clean_errors():
        _read_tree(TreeImage(data.ljust(-(-len(data) // 512) * 512, b"\0"), sizes), sizes)


def _read_tree(tree: TreeImage, sizes: list[int]) -> None:
    _printable(tree.warnings[1])
    for path, nid in tree.walk(tree.root):
        inode = tree.inode(nid)
        with _clean_errors():
            tree.xattrs(nid)
            if stat.S_ISLNK(inode.mode):
                assert len(tree.readlink(nid)) == inode.size
            elif stat.S_ISDIR(inode.mode):
                tree.lookup(nid, path.rpartition(b"/")[2])
            elif stat.S_ISREG(inode.mode):
                for offset in (0, inode.size // 2, inode.size - 1):
                    for address, length in tree.extents(nid, offset, 1 << 20):
                        assert length > 0
                        if address is not None and (place := tree.layer_of(address)):
                            assert place[1] + length <= sizes[place[0]]


def _tree_seeds() -> list[bytes]:
    xattr = tars.pax({b"SCHILY.xattr.user.x": b"1", b"SCHILY.xattr.security.capability": b"c" * 20})
    sparse = tars.pax({b"GNU.sparse.map": b"0,1,4096,1", b"GNU.sparse.numblocks": b"2", b"GNU.sparse.size": b"9000"})
    stream = tars.tar(
        [
            tars.file(b"d/a", b"x" * 700), tars.symlink(b"l", b"d/a"), tars.hardlink(b"h", b"d/a"),
            xattr + tars.file(b"x", b"y"), sparse + tars.file(b"s", b"xy"),
            tars.header(b"c", flag=b"3", major=1, minor=3),
        ]
    )  # fmt: skip
    entries = scan(ReaderForward(BytesReader(stream)), warn=print)
    root = merge([entries, []], print)
    compiled = compile_tree(root, [10_000, 3_000], lambda layer, size, at: stream[at : at + size], print, ["odd"])
    empty = compile_tree(merge([[], []], print), [10_000, 3_000], lambda layer, size, at: b"")
    return [compiled, empty.rstrip(b"\0")]


# JSON documents.


def fuzz_documents(data: bytes) -> None:
    """Take bytes for a manifest, an index or a config; of a config, make that of a container."""
    with _clean_errors():
        document = parse_document(data, "document")
        assert document.schema_version == 2
    with _clean_errors():
        config = parse_config(data, "config")
        _printable(str(len(config.history)))
        accounts = Accounts(b"root:x:0:0:root:/root:sh\n")
        to_json(runtime_spec(config, accounts, Overrides(), Host(readonly=True), _printable))
        for path in config.config.volumes:
            assert absolute_path(path, "volume", _printable).startswith("/")


def _document_seeds() -> list[bytes]:
    files = images.layout_files(images.Image((images.Layer(), images.Layer(embedded=True))))
    arm = images.Image(platform={"os": "linux", "architecture": "arm64", "variant": "v8"})
    index = images.to_json(images.index_of([images.add_image({}, arm)]))
    config = {
        "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
        "config": {
            "User": "root:0", "Env": ["PATH=/bin", "A=b=c"], "Cmd": ["sh"], "Entrypoint": ["/init"],
            "WorkingDir": "/a/b", "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGTERM",
        },
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "x", "empty_layer": True}],
    }  # fmt: skip
    return [*(data for name, data in files.items() if data.startswith(b"{")), index, images.to_json(config)]


# Layouts: what documents say of each other, their digests being right.


class _Memory:
    """A folder of files in memory."""

    is_compressed = False
    name = "memory"

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        self._opened: list[int] = []

    def open(self, path: str) -> FileReader:
        if path not in self._files:
            raise NotFoundError(f"memory has no {path}")
        blob = memory_blob(self._files[path])
        self._opened.append(blob.fd)
        return blob

    def close(self) -> None:
        for fd in self._opened:
            os.close(fd)


_LAYER = tars.tar([tars.file(b"f")])


def fuzz_layout(data: bytes) -> None:
    """Take bytes for config, manifest and indexes, apart by a line of two dashes; `@LAYER@` is its digest and size."""
    files = {"oci-layout": images.LAYOUT_VERSION}
    places = {b"@DIFFID@": images.digest(_LAYER).encode(), b"@LAYER@": _described(files, _LAYER)}
    last = b""
    for name, document in zip(
        (b"@CONFIG@", b"@MANIFEST@", b"@INDEX@", b"@OUTER@"), data.split(b"\n--\n"), strict=False
    ):
        last = document
        for place, value in places.items():
            last = last.replace(place, value)
        places[name] = _described(files, last)
    files["index.json"] = last
    folder = _Memory(files)
    with _clean_errors(), closing(folder):
        source = open_layout(folder, Limits(layers=20))
        for image in source.images():
            _printable(str(image.descriptor.digest))
        for text in ("x", "x:latest", "x:@0", "x@" + images.digest(_LAYER)):
            with _clean_errors():
                resolved = resolve_image(source, parse_reference(text, lambda path: path == "x"))
                assert len(resolved.layers) == len(resolved.config.rootfs.diff_ids) <= 20
                for layer in resolved.layers:
                    assert source.open(layer.descriptor).size == layer.descriptor.size


def _described(files: dict[str, bytes], data: bytes) -> bytes:
    """Add a blob, and return the members of its descriptor that follow from its bytes."""
    digest = images.digest(data)
    files[images.blob_path(digest)] = data
    return b'"digest":"%s","size":%d' % (digest.encode(), len(data))


def _layout_seeds() -> list[bytes]:
    config = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["@DIFFID@","@DIFFID@"]}}'
    layer = b'{"mediaType":"%s",@LAYER@}' % images.LAYER.encode()
    manifest = b'{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s",@CONFIG@},"layers":[%s,%s]}' % (
        images.MANIFEST.encode(), images.CONFIG.encode(), layer, layer,
    )  # fmt: skip
    named = b'{"mediaType":"%s",@MANIFEST@,"annotations":{"%s":"latest"}}' % (
        images.MANIFEST.encode(), images.REF_NAME.encode(),
    )  # fmt: skip
    platform = (
        b'{"mediaType":"%s",@MANIFEST@,"platform":{"os":"linux","architecture":"amd64"}}' % images.MANIFEST.encode()
    )
    index = b'{"schemaVersion":2,"mediaType":"%s","manifests":[%s,%s]}' % (images.INDEX.encode(), named, platform)
    nested = b'{"schemaVersion":2,"manifests":[{"mediaType":"%s",@INDEX@}]}' % images.INDEX.encode()
    return [b"\n--\n".join(parts) for parts in ((config, manifest, index), (config, manifest, index, nested))]


# References, digests, platforms.


def fuzz_references(data: bytes) -> None:
    """Take bytes for what a user may write; which paths exist depends on their length."""
    text = os.fsdecode(data.replace(b"\0", b""))
    with _clean_errors():
        reference = parse_reference(text, lambda path: len(path) % 3 == 1)
        _printable(str(reference))
        assert not reference.is_path or len(reference.path) % 3 == 1
        matching(reference.tag or "latest", [("example/app:latest", "latest")])
    for parse in (Digest, Platform.parse):
        with _clean_errors():
            _printable(str(parse(text)))


def _reference_seeds() -> list[bytes]:
    digest = b"sha256:" + b"0" * 64
    return [
        b"./a:latest", b"oci:a:1.0", b"oci-archive:a.tar", b"docker-archive:a:@1", b"a@" + digest, b"docker://host/a:b",
        b"a:b:c:d", b"a~2", b"a:tag~1", digest, b"linux/arm64/v8", b"docker-daemon:x", b"\xff:\x1b", b"a@sha512:00",
    ]  # fmt: skip


# Configuration of containerd.

_HOME = Path(tempfile.mkdtemp(prefix="ocifs-fuzz-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)


def fuzz_containerd(data: bytes) -> None:
    """Take bytes for a hosts.toml, and for containerd's own configuration."""
    for name in ("registry.test/hosts.toml", "config.toml"):
        (_HOME / name).parent.mkdir(exist_ok=True)
        (_HOME / name).write_bytes(data)
    with _clean_errors():
        for endpoint in host_endpoints(_HOME, "registry.test/app") or []:
            parse_url(f"https://{endpoint.address}{endpoint.settings.root}/", "it has")
            assert all((name + value).isprintable() for name, value in endpoint.settings.headers if "\t" not in value)
        unknown_fields(_HOME / "registry.test")
    expected = Expected("ocifs", Path("/s"), Path("/r"), _HOME, has_kubelet=True)
    with _clean_errors():
        config = ContainerdConfig(read_config(_HOME / "config.toml"), (2, 1))
        for finding in check_containerd(config, _HOME, expected):
            _printable(str(finding))


def _containerd_seeds() -> list[bytes]:
    hosts = b"""server = "https://a"\n[host."http://b:5000/x"]\ncapabilities = ["pull"]\nskip_verify = true
override_path = true\ndial_timeout = "1m5s"\nclient = [["a", "b"], "c"]\n[host."c".header]\nx = ["1", "2"]"""
    config = b"""version = 3\nimports = ["x", "**y"]\n[proxy_plugins.ocifs]\ntype = "snapshot"\naddress = "/s"
[plugins."io.containerd.cri.v1.images"]\nsnapshotter = "ocifs"\nregistry = {config_path = "/x"}
[[plugins."io.containerd.transfer.v1.local".unpack_config]]\nsnapshotter = "ocifs"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.x]\nsnapshotter = "y\""""
    return [hosts, config, config.replace(b"3", b"2"), b"host = 1", b"plugins = []\nproxy_plugins = [1]"]


# Compressed blobs.


def fuzz_blobs(data: bytes) -> None:
    """Take the first byte for how the rest is compressed; read it from front to end, and each span by itself."""
    codec = zstd if data[:1] == b"z" else gzip
    blob = BytesReader(data[1:])
    ways: list[Callable[[], Pass]] = []
    with _clean_errors():
        ways = [*codec.passes(blob, _printable, low_memory=True)[:-1], *codec.passes(blob, _printable)]
    for begin in ways:
        with _clean_errors(), begin() as reading:
            stream = b""
            for chunk in reading.chunks():
                stream += chunk
                if len(stream) > 1 << 20:
                    return
            points = unpacked(reading)
            for point, end in pairwise(points):
                stored = blob.pread(end.offset + (end.bits > 0) - point.offset, point.offset)
                size = end.start - point.start
                assert codec.decode(stored, point, size).read(size) == stream[point.start : end.start]


def _blob_seeds() -> list[bytes]:
    import gzip as python_gzip

    text = b"the quick brown fox " * 30
    member = python_gzip.compress(text, mtime=0)
    frame = zstandard.compress(text)
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"skip"
    checked = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(text)
    gzips = [member, member * 2, member + bytes(20), member + b"rubbish", python_gzip.compress(text, 0, mtime=0)]
    return [b"g" + each for each in gzips] + [b"z" + each for each in (frame, frame + skippable + checked)]


# zTOCs.


_SMALL_TAR = tars.tar([tars.directory(b"d/"), tars.file(b"d/f", b"content"), tars.symlink(b"l", b"d/f")])


def fuzz_ztoc(data: bytes) -> None:
    """Take the first byte for whether the layer is compressed, the rest for its zTOC; make an index of it."""
    blob = zlib.compress(_SMALL_TAR, wbits=31) if data[:1] == b"g" else _SMALL_TAR
    descriptor = Descriptor(media_type="x", digest=Digest.of(blob), size=len(blob))
    layer = ImageLayer(descriptor, DiffID(Digest.of(_SMALL_TAR)), "gzip" if data[:1] == b"g" else "tar")
    with _clean_errors():
        read = read_ztoc(data[1:], _SMALL)
        size = size_of_gzip(read, blob[-4:]) if read.codec == "gzip" else read.size
        with closing(Store(None).get(KIND, "x", lambda out: write_index_of_ztoc(read, layer, size, out))) as file:
            index = check_index(open_index(file), layer, _SMALL)
            for span in range(index.span_count):
                offset, stored = index.stored_range(span)
                assert 0 <= offset <= offset + stored <= len(blob)
                assert len(index.checkpoint(span).window) <= 1 << 15
            assert index.toc() == read.entries


def _ztoc_seeds() -> list[bytes]:
    blob = zlib.compress(_SMALL_TAR, wbits=31)
    compressed = independent.write(blob, _SMALL_TAR, first_version=True)
    return [b"g" + compressed, b"t" + independent.write(_SMALL_TAR, _SMALL_TAR)]


# Answers of registries.


class _Endless(socket.socket):
    """A connection whose answer goes on with its last line, for ever."""

    def answer(self, data: bytes) -> None:
        self._rest = data
        self._repeated = data[data.rstrip(b"\n").rfind(b"\n") + 1 :] or b"x"

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        if not self._rest:
            self._rest = self._repeated * (len(buffer) // len(self._repeated) + 1)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


class _Script:
    """Connections to no host: each returns the next of some answers, and then its end, if it has one."""

    def __init__(self, answers: list[bytes], *, endless: bool = False) -> None:
        self._answers = iter(answers)
        self._endless = endless
        self.timeouts = Timeouts(answer=0.005, rate=0.005) if endless else Timeouts()
        self._far: list[tuple[str, socket.socket]] = []
        """The other end of each connection, with the host that it was for."""

    def connect(self, host: str) -> socket.socket:
        try:
            answer = next(self._answers)
        except StopIteration:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused") from None
        near, far = socket.socketpair()
        if self._endless:
            near = _Endless(fileno=near.detach())
            near.answer(answer)
        else:
            far.sendall(answer)
        far.shutdown(socket.SHUT_WR)
        self._far.append((host, far))
        return near

    def transport(self) -> HttpTransport:
        script = self

        class Plain(HttpConnection):
            def _new_conn(self) -> socket.socket:
                return script.connect(self.host)

        class Encrypted(HttpsConnection):
            def connect(self) -> None:
                self.sock = script.connect(self.host)
                self.is_verified = True

        pools = {
            "http": type("PlainPool", (HttpPool,), {"ConnectionCls": Plain}),
            "https": type("EncryptedPool", (HttpsPool,), {"ConnectionCls": Encrypted}),
        }
        made: HttpTransport = type("Scripted", (HttpTransport,), {"pools": pools})(
            _NO_CERTIFICATES, self.timeouts, proxies=False
        )
        return made

    def close(self) -> None:
        """Check that only the registry got credentials."""
        for host, far in self._far:
            with far:
                far.setblocking(False)
                request = b""
                with suppress(BlockingIOError, ConnectionResetError):
                    while data := far.recv(1 << 16):
                        request += data
                assert host == _REGISTRY or b"Authorization" not in request, (host, request)


_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_REGISTRY = "registry.test"
_BLOB = b"the blob"


class _OnlyOnce(Session):
    """Tries nothing again."""

    budget = 0.0


def fuzz_answers(data: bytes) -> None:
    """Take two bytes for the scheme and what is asked, the rest for the answers, apart by a line of two dashes.

    With a scheme in upper case, each answer goes on with its last line.
    """
    scheme = "https" if data[:1] in b"sS" else "http"
    script = _Script(data[2:].split(b"\n--\n"), endless=data[:1].isupper())
    credentials = Credentials("me", "s3cr3t-password")
    peer = Peer(
        host=_REGISTRY,
        address=_REGISTRY,
        repository="app",
        plain_http=True,
        scheme=scheme,
        credentials=credentials,
        timeouts=script.timeouts,
    )
    digest = Digest.of(_BLOB)
    with closing(script), closing(_OnlyOnce(peer, transport=script.transport())) as session, _clean_errors():
        match data[1:2]:
            case b"b":
                blob = RemoteBlob([session], f"blobs/{digest}", digest, len(_BLOB))
                assert len(blob.pread(4, 2)) == 4
                assert sum(map(len, blob.stream())) == len(_BLOB)
            case b"r":
                list_referrers(session, digest)
            case b"p":
                content = NewBlob(Descriptor(media_type="x", digest=digest, size=len(_BLOB)), BytesReader(_BLOB))
                push_image(session, "latest", [content], [content])
            case _:
                RegistrySource([session]).resolve(parse_reference(f"docker://{_REGISTRY}/app"))


def _answer_seeds() -> list[bytes]:
    digest = Digest.of(_BLOB)
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe blob"
    part = b"HTTP/1.1 206 OK\r\nContent-Length: 4\r\nContent-Range: bytes 2-5/8\r\n\r\ne bl"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nthe\r\n5\r\n blob\r\n0\r\nA: b\r\n\r\n"
    away = b"HTTP/1.1 307 No\r\nContent-Length: 0\r\nLocation: https://store.test:443/blob?signature=x\r\n\r\n"
    bearer = b'WWW-Authenticate: Basic realm="x", Bearer realm="%s/token?a=b",service="registry"'
    refused = b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n%b\r\n\r\n{}"
    token = b'HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n{"token":"t0ken","expires_in":300.5}'
    later = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nRetry-After: Fri, 31 Dec 2027 23:59:59 GMT\r\n\r\n"
    encoded = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\nthe blob"
    index = images.to_json(images.index_of([{"mediaType": images.LAYER, "digest": str(digest), "size": 8}]))
    listed = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b"
    following = b'Link: </v2/app/referrers/x?n=1>; rel="next"\r\n'
    created = b"HTTP/1.1 201 Created\r\nLocation: /v2/app/blobs/uploads/1?state=x\r\nContent-Length: 0\r\n\r\n"
    missing = b'HTTP/1.1 404 No\r\nContent-Length: 33\r\n\r\n{"errors":[{"code":"NAME_UNKNOWN"}]}'
    conversations = {
        b"hb": [part, whole],
        b"sb": [away, part, chunked],
        b"hm": [refused % (bearer % b"http://registry.test:81"), token, whole],
        b"sm": [refused % (bearer % b"https://auth.test:8080"), token, b"HTTP/1.1 100 Continue\r\n\r\n" + whole],
        b"hr": [listed % (following, len(index), index), listed % (b"", len(index), index)],
        b"sr": [missing, listed % (b"", len(index), index), later],
        b"sp": [missing, created, created, created, encoded],
        b"Hm": [chunked.removesuffix(b"\r\n")],
        b"Sm": [chunked[: chunked.index(b"3;x")] + b"3;x"],
    }
    return [kind + b"\n--\n".join(answers) for kind, answers in conversations.items()]


# Hot packs, with the head laid open


_STREAMS = [Stream("sha256:base", 40_000), Stream("sha256:top", 8192)]


def fuzz_hot_pack(data: bytes) -> None:
    """Take four bytes for the length of the head, the head as MessagePack, and the frames."""
    size = int.from_bytes(data[:4], "little") % (1 << 16)
    packed = zstandard.compress(data[4 : 4 + size])
    start = struct.pack("<8sI32s", b"ocifshp1", len(packed), hashlib.sha256(packed).digest())
    for pack in (data, start + packed + data[4 + size :]):
        file = BytesReader(pack)
        with _clean_errors():
            table = read_table(file, _STREAMS, 40_000)
            assert table.size <= 40_000
            assert sum(count for _, count in table.recordings) <= sum(len(frame.blocks) for frame in table.frames)
            opened = HotPack(lambda file=file, table=table: (file, table), verified=False)  # type: ignore[misc]
            for number, frame in enumerate(table.frames):
                for block in frame.blocks:
                    assert 0 <= block.offset < block.end <= _STREAMS[block.layer].size
                    views = opened.views(block.layer, block.size, block.offset)
                    if views is not None:
                        assert hashlib.sha256(b"".join(views)).digest() == block.digest
                assert opened.fault is not None or opened.frame(number) is not None


def _hot_pack_seeds() -> list[bytes]:
    data = [bytes([number]) * 4096 for number in range(3)]
    digests = b"".join(hashlib.sha256(each).digest() for each in data)
    frames = [zstandard.compress(data[0] + data[1]), zstandard.compress(data[2])]
    head = Head(
        streams=("sha256:base", "sha256:top"),
        layers=pack_u64([1, 0, 0]),
        offsets=pack_u64([0, 4096, 0]),
        sizes=pack_u64([4096] * 3),
        digests=digests,
        counts=pack_u64([2, 1]),
        stored=pack_u64(map(len, frames)),
        recordings=((5, 3),),
    )
    many = msgspec.structs.replace(head, recordings=((5, 3), *[(0, 0)] * 15_000))
    packed = map(msgspec.msgpack.encode, (head, many))
    return [struct.pack("<I", len(each)) + each + frames[0] + frames[1] for each in packed]


# tar-split files, with their lines laid open.


def fuzz_tar_split(data: bytes) -> None:
    """Read entries; what was read is written and read again."""
    for stored in (data, zlib.compress(data, 1, wbits=31)):
        with _clean_errors():
            entries = [*tarsplit.decode(io.BytesIO(stored), "a tar-split", 1 << 20)]
            again = [*tarsplit.decode(io.BytesIO(b"".join(tarsplit.encode(entries))), "it")]
            assert again == [each for each in entries if each != tarsplit.Raw(b"")]


def _tar_split_seeds() -> list[bytes]:
    entries: list[tarsplit.TarSplitEntry] = [
        tarsplit.Raw(b"header"),
        tarsplit.Content(b"a/b", 5, 7),
        tarsplit.Content(b"\xff", 0, None),
    ]
    stored = b"".join(tarsplit.encode(entries))
    return [stored, zlib.decompress(stored, wbits=31)]


TARGETS = {
    "tar_split": Target(fuzz_tar_split, _tar_split_seeds),
    "hot_pack": Target(fuzz_hot_pack, _hot_pack_seeds),
    "tar": Target(fuzz_tar, _tar_seeds),
    "pax": Target(fuzz_pax, _pax_seeds),
    "gzidx": Target(fuzz_gzidx, _gzidx_seeds),
    "layer_index": Target(fuzz_layer_index, _index_seeds),
    "toc": Target(fuzz_toc, _toc_seeds),
    "tree_image": Target(fuzz_tree_image, _tree_seeds),
    "documents": Target(fuzz_documents, _document_seeds),
    "layout": Target(fuzz_layout, _layout_seeds),
    "references": Target(fuzz_references, _reference_seeds),
    "containerd": Target(fuzz_containerd, _containerd_seeds),
    "blobs": Target(fuzz_blobs, _blob_seeds),
    "ztoc": Target(fuzz_ztoc, _ztoc_seeds),
    "answers": Target(fuzz_answers, _answer_seeds),
}


def cases(name: str) -> list[bytes]:
    """Return the seeds of a target, and the cases that were found."""
    return [*TARGETS[name].seeds(), *(path.read_bytes() for path in sorted((_CASES / name).glob("*")))]
