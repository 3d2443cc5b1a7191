"""Images whose layers carry a TOC, opened by that: the tree is the tar's, and little is fetched."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from ocifs.blobs.download import BLOB
from ocifs.errors import InvalidImageError, LimitError, OcifsError
from ocifs.image.opening import Image as OpenedImage
from ocifs.image.opening import open_image
from ocifs.image.verification import verify_image
from ocifs.indexes.artifact import make_artifact
from ocifs.indexes.candidate import CONVERTED
from ocifs.indexes.chunked import read_toc, table_of, write_index
from ocifs.layer.chunked.table import ChunkTable
from ocifs.layer.chunked.toc_location import promised
from ocifs.layer.index import open_index
from ocifs.layer.layer import Layer
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.span_cache import SpanCache
from ocifs.layer.verification import fetch_all, verify_blob, verify_index
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.options import Options
from ocifs.sources.resolve import ImageLayer
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import DiffID, Digest
from ocifs.store import Store
from tests.images import LAYER, Image, layout_files, write_layout
from tests.registry import Registry, whole, wrong_bytes
from tests.tars import directory, file, hardlink, header, pax, symlink, tar
from tests.tocs import ESTARGZ_DIGEST, STARGZ, WRITERS, Document, TocLayer, estargz, footer, zstd_chunked

pytestmark = pytest.mark.usefixtures("alone")

BIG = os.urandom(300_000)
HOLES = os.urandom(1000) + bytes(400_000) + os.urandom(999)
TAR = tar(
    [
        directory(b"./", mode=0o700, mtime=7),
        directory(b"etc/", uid=1, gid=2),
        file(b"etc/motd", b"hello\n", mtime=1_700_000_000, mode=0o4755),
        file(b"big", BIG),
        file(b"holes", HOLES),
        file(b"zeros", bytes(200_000)),
        file(b"empty"),
        pax({b"mtime": b"1234567890.125", b"SCHILY.xattr.user.x": b"\xc3\xa4"}),
        file("ümlaut".encode(), b"y"),
        hardlink(b"again", b"etc/motd"),
        symlink(b"way", b"../etc/motd"),
        header(b"null", flag=b"3", major=1, minor=3),
        header(b"pipe", flag=b"6", mode=0o600),
        file(b"etc/.wh.gone"),
        file(b"last", b"last"),
    ]
)
CHUNK = 64 << 10


Open = Callable[..., OpenedImage]


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def opened(registry: Registry, store: Store, warnings: list[str]) -> Iterator[Open]:
    """Put layers into the registry, and open them from there."""
    images: list[OpenedImage] = []

    def open_layers(*layers: TocLayer, by_digest: bool = False, **options: Any) -> OpenedImage:
        registry.add("app", layout_files(Image(layers)))
        reference = f"docker://{registry.host}/app"
        if by_digest:
            reference += f"@{Digest.of(registry.manifests['app']['latest'].data)}"
        images.append(open_image(reference, Options(store=store, warn=warnings.append, **options)))
        return images[-1]

    yield open_layers
    for image in images:
        image.close()


def tree(image: OpenedImage) -> dict[bytes, tuple[object, ...]]:
    """Everything of every file."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path, inode in image.rootfs.walk():
        content = b""
        if stat.S_ISREG(inode.mode):
            content = image.rootfs.read(inode.nid, inode.size, 0)
        elif stat.S_ISLNK(inode.mode):
            content = image.rootfs.readlink(inode.nid)
        xattrs = image.rootfs.tree.xattrs(inode.nid)
        found[path] = (
            inode.mode,
            inode.nlink,
            inode.size,
            inode.uid,
            inode.gid,
            inode.mtime_ns,
            inode.rdev,
            xattrs,
            content,
        )
    return found


def tree_of_the_tar(layer: TocLayer, tmp_path: Path) -> dict[bytes, tuple[object, ...]]:
    with open_image(str(write_layout(tmp_path / "layout", Image((layer.unannotated(),))))) as image:
        return tree(image)


def fetched(registry: Registry, layer: TocLayer) -> int:
    """How many bytes of a layer were asked for."""
    ranges = [each.range for each in registry.sent if each.path.endswith(str(Digest.of(layer.blob)))]
    bounds = [each.removeprefix("bytes=").split("-") for each in ranges]
    return sum(int(last) - int(first) + 1 for first, last in bounds)


def verify(layer: Layer) -> bool:
    """Do what the background does."""
    fetch_all(layer, lambda size: None)
    verify_blob(layer, lambda size: None)
    return verify_index(layer, lambda size: None)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("chunk", [CHUNK, 4 << 20])
def test_the_tree_is_that_of_the_tar(
    opened: Open, write: Callable[..., TocLayer], chunk: int, warnings: list[str], tmp_path: Path
) -> None:
    layer = write(TAR, chunk=chunk)
    image = opened(layer)
    assert image.layers[0].index.summary.toc
    assert not image.layers[0].verification.is_verified
    found, expected = tree(image), tree_of_the_tar(layer, tmp_path)
    assert found == expected
    assert not warnings
    assert verify(image.layers[0])


def test_chunks_that_share_a_member(opened: Open, tmp_path: Path) -> None:
    layer = estargz(TAR, chunk=CHUNK, grouped=True)
    image = opened(layer)
    assert image.layers[0].index.summary.toc
    assert tree(image) == tree_of_the_tar(layer, tmp_path)
    assert verify(image.layers[0])


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_only_what_is_read_is_fetched(opened: Open, registry: Registry, write: Callable[..., TocLayer]) -> None:
    layer = write(tar([file(b"motd", b"hello\n"), file(b"large", os.urandom(3_000_000)), file(b"last")]))
    image = opened(layer)
    assert image.rootfs.open("/motd").read() == b"hello\n"
    assert 0 < fetched(registry, layer) < 500_000


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_is_annotated_is_bound_by_a_digest(opened: Open, write: Callable[..., TocLayer]) -> None:
    assert not opened(write(TAR), by_digest=True).layers[0].verification.is_verified


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_only_a_footer_tells_of_is_found_if_asked_for(opened: Open, write: Callable[..., TocLayer]) -> None:
    layer = write(TAR).unannotated()
    assert not opened(layer, toc="find").layers[0].verification.is_verified


@pytest.mark.parametrize(("toc", "by_digest"), [("use", False), ("find", True), ("ignore", False), ("verify", False)])
def test_what_only_a_footer_tells_of_is_left(
    opened: Open,
    toc: Literal["use", "find", "verify", "ignore"],
    by_digest: bool,
    warnings: list[str],
) -> None:
    image = opened(zstd_chunked(TAR).unannotated(), toc=toc, by_digest=by_digest)
    assert not image.layers[0].index.summary.toc
    assert not warnings


@pytest.mark.parametrize("options", [{"toc": "ignore"}, {"toc": "verify"}, {"strict": True}, {"lazy": False}])
def test_without_the_toc(opened: Open, options: dict[str, Any], tmp_path: Path) -> None:
    layer = estargz(TAR)
    image = opened(layer, **options)
    assert not image.layers[0].index.summary.toc
    assert image.layers[0].verification.is_verified
    assert tree(image) == tree_of_the_tar(layer, tmp_path)


def test_it_is_converted_once(opened: Open, registry: Registry) -> None:
    layer = estargz(TAR)
    opened(layer).close()
    before = fetched(registry, layer)
    opened(layer)
    assert fetched(registry, layer) == before


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_comes_before_the_landmark_is_fetched_first(opened: Open, write: Callable[..., TocLayer]) -> None:
    landmark = file(b".prefetch.landmark", b"\x0f")
    layer = write(tar([file(b"first", b"1"), file(b"second", BIG), landmark, file(b"later", b"3")]), chunk=CHUNK)
    image = opened(layer)
    assert image.layers[0].prefetch == ((0, 5),)
    assert b".prefetch.landmark" in tree(image)


def test_times_are_whole_seconds_until_the_tar_is_read(opened: Open, store: Store, tmp_path: Path) -> None:
    def rounded(document: Document) -> None:
        for entry in document["entries"]:
            if "modtime" in entry:
                entry["modtime"] = entry["modtime"].replace(".125000Z", "Z")

    layer = estargz(TAR, alter=rounded)
    image = opened(layer)
    assert not verify(image.layers[0])
    path = "ümlaut".encode()
    assert tree(image)[path][5] == 1234567890 * 10**9
    assert tree_of_the_tar(layer, tmp_path)[path][5] == 1234567890_125 * 10**6
    image.close()


# TOCs that are no good.


def change(**members: object) -> Callable[[Document], None]:
    """Change an entry: that of the file `big`, unless `name` says which."""
    name = members.pop("of", "big")

    def alter(document: Document) -> None:
        (entry,) = (each for each in document["entries"] if each["name"] == name and each["type"] != "chunk")
        entry.update(members)

    return alter


def repeat(document: Document) -> None:
    """Say that the second of two neighbours lies where the first does."""
    first, second = (each for each in document["entries"] if each["name"] in {"big", "last"})
    second["offset"] = first["offset"]


MALFORMED: dict[str, Callable[[Document], object]] = {
    "no JSON": lambda toc: b"{",
    "another document": lambda toc: b'{"version": 1, "entries": {}}',
    "deep": lambda toc: b'{"version": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "entries": []}',
    "unknown version": lambda toc: toc.update(version=9),
    "no name": change(name=""),
    "name too long": change(name="x" * 256),
    "NUL in a target": change(of="way", linkName=""),
    "lost bytes": change(of="last", name="l\ufffdst"),
    "surrogate": lambda toc: b'{"version": 1, "entries": [{"type": "dir", "name": "\\ud800"}]}',
    "unknown type": change(type="socket"),
    "owner": change(uid=-1),
    "huge owner": change(uid=2**64),
    "device": change(of="null", devMajor=1 << 12),
    "time": change(modtime="yesterday"),
    "no such day": change(modtime="2023-02-30T00:00:00Z"),
    "xattrs": change(xattrs={"user.x": "no base64!"}),
    "too many xattrs": change(xattrs={"user.x": "AAAA" * 30_000}),
    "negative size": change(size=-1),
    "huge size": change(size=2**63),
    "gap": change(chunkOffset=1),
    "digest": change(chunkDigest="sha256:00"),
    "other digest": change(chunkDigest="sha512:" + "0" * 128),
    "zeros without end": change(size=2**62, chunkSize=2**62, chunkType="zeros", digest=""),
    "no digest": lambda toc: [entry.update(digest="", chunkDigest="") for entry in toc["entries"]],
    "before the blob": change(offset=-1),
    "behind the blob": change(of="last", offset=1 << 40),
    "backwards": repeat,
    "inner": change(innerOffset=-1),
    "far inside": change(innerOffset=1 << 40),
    "chunk of nothing": lambda toc: toc["entries"].insert(0, {"type": "chunk", "name": "x"}),
    "chunk of another": lambda toc: toc["entries"].append({"type": "chunk", "name": "x"}),
    "chunk of a directory": lambda toc: toc["entries"].insert(2, {"type": "chunk", "name": "etc/", "chunkSize": 1}),
}


def parse_toc(layer: TocLayer, limits: Limits = DEFAULT_LIMITS) -> ChunkTable:
    """Return what the TOC of a layer makes of it, without a registry."""
    of_image = described(layer)
    promise = promised(of_image.descriptor.annotations, of_image.compression)
    return table_of(read_toc(lambda begin, end: layer.blob[begin:end], of_image, promise, limits), limits)


def described(layer: TocLayer) -> ImageLayer:
    annotations: Any = layer.descriptor.get("annotations", {})
    compression = layer.compression
    descriptor = Descriptor(
        media_type=f"{LAYER}+{compression}",
        digest=Digest.of(layer.blob),
        size=len(layer.blob),
        annotations=annotations,
    )
    return ImageLayer(descriptor, DiffID(Digest.of(layer.tar)), compression)


@contextmanager
def local(layer: TocLayer) -> Iterator[Layer]:
    """Return a layer that is read by its TOC; its blob is cached."""
    of_image = described(layer)
    index = Store(None).get(
        CONVERTED, "x", lambda out: write_index(out, parse_toc(layer), of_image, Digest.of(layer.blob))
    )
    blob = Store(None).get(BLOB, "x", lambda out: out.write(layer.blob))
    yield Layer(0, open_index(index), blob, SpanCache(), "a TOC")
    index.close()
    blob.close()


@pytest.mark.parametrize("alter", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_toc_that_cannot_be_true(write: Callable[..., TocLayer], alter: Callable[[Document], object]) -> None:
    with pytest.raises(OcifsError) as caught:
        parse_toc(write(TAR, alter=alter))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_it_is_told_and_left(opened: Open, warnings: list[str]) -> None:
    layer = estargz(TAR, alter=MALFORMED["owner"])
    image = opened(layer)
    assert image.layers[0].verification.is_verified
    assert image.rootfs.open("/etc/motd").read() == b"hello\n"
    digest = described(layer).descriptor.digest
    (warning,) = warnings
    assert warning.startswith(f"layer {digest}: its index estargz sha256:")
    assert warning.endswith("is not used: entry 'big': owner -1:0 is outside 0..4294967294")


@pytest.mark.parametrize("name", ["c-storage", "stargz-zstd"])
def test_a_layer_without_entries(opened: Open, name: str, tmp_path: Path) -> None:
    """Go writes a list of nothing as null. An eStargz always has an entry, its landmark."""
    layer = WRITERS[name](tar([]), alter=lambda toc: toc.update(entries=None))
    image = opened(layer)
    assert image.layers[0].index.summary.toc
    assert tree(image) == tree_of_the_tar(layer, tmp_path)
    assert verify(image.layers[0])


def test_an_attribute_that_is_null_is_empty() -> None:
    table = parse_toc(estargz(TAR, alter=change(of="last", xattrs={"user.x": None})))
    (entry,) = (each for each in table.entries if each.path == b"last")
    assert entry.xattrs == {b"user.x": b""}


@pytest.mark.parametrize("limits", [Limits(toc=100), Limits(entries=10), Limits(uncompressed=1000)])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_limits(write: Callable[..., TocLayer], limits: Limits) -> None:
    with pytest.raises(LimitError, match="--limit"):
        parse_toc(write(TAR), limits)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("more", [1, -1])
def test_a_size_that_the_digest_does_not_bear_out(write: Callable[..., TocLayer], more: int) -> None:
    with local(write(TAR, alter=change(size=len(BIG) + more))) as layer:
        (entry,) = (each for each in layer.index.toc() if each.path == b"big")
        with pytest.raises(InvalidImageError, match="not what they were"):
            layer.pread(1, entry.offset)


def bad(layer: TocLayer, **annotations: str) -> TocLayer:
    told: Any = layer.descriptor["annotations"]
    return TocLayer(layer.tar, layer.compression, stored=layer.stored, descriptor={"annotations": told | annotations})


def cut(layer: TocLayer, blob: bytes) -> TocLayer:
    return TocLayer(layer.tar, layer.compression, stored=blob, descriptor=layer.descriptor)


_ES, _ZC = estargz(TAR), zstd_chunked(TAR)
_C = "io.github.containers.zstd-chunked."
BAD_PLACES: dict[str, tuple[TocLayer, str]] = {
    "no digest": (bad(_ES, **{ESTARGZ_DIGEST: "sha256"}), "malformed digest"),
    "another digest": (bad(_ES, **{ESTARGZ_DIGEST: Digest.of(b"")}), "has another digest than"),
    "another checksum": (bad(_ZC, **{f"{_C}manifest-checksum": Digest.of(b"")}), "has another digest than"),
    "no position": (bad(_ZC, **{f"{_C}manifest-position": "1:2:3"}), "manifest-position is '1:2:3'"),
    "negative": (bad(_ZC, **{f"{_C}manifest-position": "-1:2:3:1"}), "manifest-position is"),
    "another type": (bad(_ZC, **{f"{_C}manifest-position": "1:2:3:2"}), "has the type 2"),
    "behind the end": (bad(_ZC, **{f"{_C}manifest-position": "1:99999999:3:1"}), "is stated to be at byte 1"),
    "huge": (bad(_ZC, **{f"{_C}manifest-position": f"1:{1 << 40}:3:1"}), "a TOC of 1099511627776 bytes"),
    "huge JSON": (bad(_ZC, **{f"{_C}manifest-position": f"1:2:{1 << 40}:1"}), "a TOC of 1099511627776 bytes"),
    "both dialects": (bad(_ZC, **{f"{STARGZ}manifest-position": "1:2:3:1"}), "both dialects"),
    "external": (cut(_ES, _ES.stored[:-51] + footer(0, b"STARGZEXTERNALTOC")), "in another image"),
    "no footer": (cut(_ES, _ES.stored[:-51]), "no footer"),
    "footer leads astray": (cut(_ES, _ES.stored[:-51] + footer(0)), "is stated to be at byte 0"),
    "footer leads elsewhere": (cut(_ES, _ES.stored[:-51] + footer(11)), "is damaged"),
    "footer leads out": (cut(_ES, _ES.stored[:-51] + footer(1 << 60)), "is stated to be at byte"),
    "another file there": (estargz(TAR, header=header(b"x", 2), alter=lambda toc: b"{}"), "does not point to a TOC"),
    "attributes": (
        estargz(TAR, header=header(b"stargz.index.json", 2, mode=0o4755), alter=lambda toc: b"{}"),
        "to which no digest commits",
    ),
    "no tar there": (estargz(TAR, header=b"x" * 512), "is damaged"),
}


@pytest.mark.parametrize(("layer", "expected"), BAD_PLACES.values(), ids=BAD_PLACES)
def test_a_place_that_cannot_be_true(layer: TocLayer, expected: str) -> None:
    with pytest.raises(OcifsError, match=expected):
        parse_toc(layer)


LIES: dict[str, Callable[[Document], object]] = {
    "another mode": change(of="etc/motd", mode=0o777),
    "another owner": change(of="etc/motd", uid=1000),
    "another time": change(of="etc/motd", modtime="2023-11-14T22:13:22Z"),
    "another kind or name": change(of="empty", name="other"),
    "another target": change(of="way", linkName="elsewhere"),
    "another target of a hard link": change(of="again", linkName="big"),
    "another device": change(of="null", devMinor=7),
    "other extended attributes": change(of="etc/motd", xattrs={"user.a": "AAAA"}),
    "another size": change(of="last", size=2, chunkDigest=Digest.of(b"la"), digest=Digest.of(b"la")),
    "entries": lambda toc: toc["entries"].append({"type": "dir", "name": "more"}),
    "fewer": lambda toc: toc["entries"].pop(6),
}


@pytest.mark.parametrize("alter", LIES.values(), ids=LIES)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_toc_that_lies_is_refuted(write: Callable[..., TocLayer], alter: Callable[[Document], object]) -> None:
    with local(write(TAR, alter=alter)) as layer, pytest.raises(InvalidImageError, match="its TOC "):
        verify(layer)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_verify_refuses_a_toc_that_lies(opened: Open, write: Callable[..., TocLayer]) -> None:
    with pytest.raises(InvalidImageError, match="its TOC gives 'etc/motd' another mode than its tar"):
        opened(write(TAR, alter=LIES["another mode"]), toc="verify")


STAR, LIBARCHIVE = b"SCHILY.xattr.", b"LIBARCHIVE.xattr."


def xattrs(**claimed: str) -> dict[str, str]:
    """Names with `_` for their dots, and values in base64."""
    return {name.replace("_", "."): value for name, value in claimed.items()}


HONEST: dict[str, tuple[dict[bytes, bytes], dict[str, str] | None, bool]] = {
    # records of the tar; what the TOC says, None being what Go keeps of these; whether it shows all that the tar does
    "as it is": ({STAR + b"user.x": b"1"}, None, True),
    "hidden, empty": ({STAR + b"user.overlay.origin": b""}, None, True),
    "hidden, left out": ({STAR + b"trusted.overlay.opaque": b"y"}, {}, True),
    "hidden, of libarchive": ({LIBARCHIVE + b"trusted.overlay.opaque": b"eQ"}, None, True),
    "hidden, changed": ({STAR + b"trusted.overlay.redirect": b"/a"}, xattrs(trusted_overlay_redirect="YWI="), True),
    "hidden, added": ({STAR + b"user.x": b"1"}, xattrs(user_x="MQ==", user_overlay_whiteout="eQ=="), True),
    "a label": ({STAR + b"security.selinux": b"label"}, {}, True),
    "no namespace": ({STAR + b"com.apple.quarantine": b"1"}, {}, True),
    "empty": ({STAR + b"user.x": b"", STAR + b"user.y": b"1"}, None, False),
    "empty, kept": ({STAR + b"user.x": b""}, xattrs(user_x=""), True),
    "libarchive's": ({LIBARCHIVE + b"user.x": b"MQ", STAR + b"user.y": b"1"}, None, False),
    "libarchive's, kept": ({LIBARCHIVE + b"user.x": b"MQ"}, xattrs(user_x="MQ=="), True),
    "of both": ({LIBARCHIVE + b"user.x": b"MQ", STAR + b"user.x": b"1"}, None, True),
}
DISHONEST: dict[str, tuple[dict[bytes, bytes], dict[str, str]]] = {
    "left out": ({STAR + b"user.x": b"1"}, {}),
    "left out of two": ({STAR + b"user.x": b"1", STAR + b"user.y": b""}, {}),
    "left out beside libarchive's": ({STAR + b"user.x": b"1", LIBARCHIVE + b"user.y": b"MQ"}, {}),
    "left out of both": ({LIBARCHIVE + b"user.x": b"MQ", STAR + b"user.x": b"1"}, {}),
    "capability left out": ({STAR + b"security.capability": b"\1\0\0\2"}, {}),
    "changed": ({STAR + b"user.x": b"1"}, xattrs(user_x="Mg==")),
    "emptied": ({STAR + b"user.x": b"1"}, xattrs(user_x="")),
    "filled": ({STAR + b"user.x": b""}, xattrs(user_x="MQ==")),
    "changed libarchive's": ({LIBARCHIVE + b"user.x": b"MQ"}, xattrs(user_x="Mg==")),
    "added": ({STAR + b"user.x": b"1"}, xattrs(user_x="MQ==", user_y="")),
}


def claiming(records: dict[bytes, bytes], claimed: dict[str, str] | None, write: Callable[..., TocLayer]) -> TocLayer:
    """Return a layer with a file that has the records, of which the TOC may claim something else."""
    members = [
        pax(records) + file(b"f", b"content"),
        directory(b"d/"),
        pax(records) + hardlink(b"h", b"f"),
    ]
    return write(tar(members), alter=(lambda toc: None) if claimed is None else change(of="f", xattrs=claimed))


def proofs(layer: TocLayer, tmp_path: Path) -> list[str | None]:
    """What three ways to verify a TOC say: the background of a mount, opening the image, and `ocifs verify`."""
    said: list[str | None] = []
    layout = str(write_layout(tmp_path / "image", Image((layer,))))
    options = Options(toc="verify", store=Store(tmp_path / "cache"))

    def open_verified() -> None:
        open_image(layout, options).close()

    with local(layer) as opened:
        for verify_it in (lambda: verify(opened), open_verified, open_verified):  # the second time from the cache
            try:
                verify_it()
            except InvalidImageError as error:
                said.append(str(error))
            else:
                said.append(None)
    checks = list(verify_image(layout, options))
    assert [check.layer for check in checks if check.what == "toc"] == [0]
    assert [check.what for check in checks if check.problem] in (["toc"], [])
    return [*said, next((check.problem for check in checks if check.problem), None)]


@pytest.mark.parametrize(("records", "claimed", "exact"), HONEST.values(), ids=HONEST)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_a_toc_loses_or_hides_is_no_lie(
    write: Callable[..., TocLayer],
    records: dict[bytes, bytes],
    claimed: dict[str, str] | None,
    exact: bool,
    tmp_path: Path,
) -> None:
    layer = claiming(records, claimed, write)
    assert proofs(layer, tmp_path) == [None] * 4
    with local(layer) as opened:
        assert verify(opened) == exact


@pytest.mark.parametrize(("records", "claimed"), DISHONEST.values(), ids=DISHONEST)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_visible_difference_is_a_lie(
    write: Callable[..., TocLayer], records: dict[bytes, bytes], claimed: dict[str, str], tmp_path: Path
) -> None:
    layer = claiming(records, claimed, write)
    name = Digest.of(layer.blob)
    expected = f"layer {name}: its TOC gives 'f' other extended attributes than its tar"
    assert proofs(layer, tmp_path) == [expected] * 4


def test_bytes_of_zeros_that_are_none_are_refuted(opened: Open) -> None:
    def zeros(document: Document) -> None:
        (entry,) = (each for each in document["entries"] if each["name"] == "last")
        entry |= {"chunkType": "zeros", "chunkSize": 4}

    with local(zstd_chunked(TAR, alter=zeros)) as layer:
        assert layer.pread(4, layer.size - 512) == bytes(4)
        with pytest.raises(InvalidImageError, match="'last' other bytes"):
            verify(layer)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_names_that_were_swapped_are_refuted(write: Callable[..., TocLayer]) -> None:
    def swap(document: Document) -> None:
        one, two = (each for each in document["entries"] if each["name"] in {"one", "two"})
        one["name"], two["name"] = "two", "one"

    with local(write(tar([file(b"one", b"1"), file(b"two", b"2")]), alter=swap)) as layer:
        assert layer.pread(1, 0) == b"1"
        with pytest.raises(InvalidImageError, match="its TOC gives 'one' another kind or name"):
            verify(layer)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_wrong_bytes_are_never_shown(opened: Open, registry: Registry, write: Callable[..., TocLayer]) -> None:
    layer = write(TAR)
    image = opened(layer)
    registry.fault(wrong_bytes, str(Digest.of(layer.blob)))
    with pytest.raises(InvalidImageError, match="other bytes"):
        image.rootfs.open("/big").read()


def test_a_gap_between_chunks_is_filled_anew(opened: Open, registry: Registry) -> None:
    """What lies there has no digest: only that of the blob shows that a crash has lost it."""
    layer = zstd_chunked(TAR, chunk=CHUNK)
    opened_layer = opened(layer).layers[0]
    fetch_all(opened_layer, lambda size: None)
    assert isinstance(opened_layer.blob, LazyBlob)
    for damaged in (0, len(layer.blob) - 50):
        os.pwrite(opened_layer.blob.fd, bytes(30), damaged)
        assert opened_layer.blob.pread(len(layer.blob), 0) != layer.blob
        verify_blob(opened_layer, lambda size: None)
        assert opened_layer.blob.pread(len(layer.blob), 0) == layer.blob
    assert verify(opened_layer)
    os.pwrite(opened_layer.blob.fd, bytes(30), 0)
    registry.fault(wrong_bytes, str(Digest.of(layer.blob)))
    with pytest.raises(InvalidImageError, match="its bytes have the digest"):
        verify_blob(opened_layer, lambda size: None)


@pytest.mark.parametrize("write", [estargz, zstd_chunked])
def test_a_registry_that_gives_no_ranges(
    opened: Open, registry: Registry, write: Callable[..., TocLayer], tmp_path: Path
) -> None:
    layer = write(TAR)
    registry.fault(whole, str(Digest.of(layer.blob)))
    image = opened(layer)
    assert not image.layers[0].verification.is_verified
    assert tree(image) == tree_of_the_tar(layer, tmp_path)


def test_an_index_of_chunks_is_not_taken_from_others(
    opened: Open, registry: Registry, store: Store, warnings: list[str]
) -> None:
    """The publisher of a LayerIndex says what is in the tar."""
    layer = estargz(TAR)
    index = opened(layer).indexes[0]
    manifest, blobs = make_artifact(opened(layer).resolved, [index])
    place = opened(layer)
    place.source.referrers().attach(place.resolved.descriptor, manifest, blobs)
    assert opened(layer, toc="ignore").layers[0].verification.is_verified
    assert "the index does not describe the tar of the layer" in warnings[-1]
