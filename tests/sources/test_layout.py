import os
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, LimitError, NotFoundError, OcifsError, UnsupportedError
from ocifs.reader import BytesReader, FileSection
from ocifs.sources.archive import Archive
from ocifs.sources.directory import Directory
from ocifs.sources.layout import Layout, open_layout
from ocifs.sources.reference import Reference
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from tests.images import (
    INDEX,
    LAYOUT_VERSION,
    MANIFEST,
    REF_NAME,
    Files,
    Image,
    Json,
    Layer,
    digest,
    index_of,
    layout_files,
    tar,
    to_json,
    write_archive,
    write_directory,
)

FULL_NAME = "io.containerd.image.name"
X = digest(b"x")
ONE = Layer(tar({"one": b"1"}))
TWO = Layer(tar({"two": b"2"}))


def open_files(path: Path, files: Files) -> Layout:
    """Open the layout in a directory."""
    return open_layout(Directory.at(str(write_directory(path, files))))


def entry(content: bytes, *names: str, platform: str | None = None, media_type: str = MANIFEST) -> Json:
    """Return an item of an index.json; a name with a slash is a full name."""
    described: Json = {"mediaType": media_type, "digest": digest(content), "size": 1}
    if names:
        described["annotations"] = {FULL_NAME if "/" in name else REF_NAME: name for name in names}
    if platform is not None:
        described["platform"] = {"os": "linux", "architecture": platform}
    return described


def index_files(*entries: Json) -> Files:
    return {"oci-layout": LAYOUT_VERSION, "index.json": to_json(index_of(list(entries)))}


A1, B1 = entry(b"a", "one"), entry(b"b", "two")
NAMED = [entry(b"a", "h/app:1", "1"), entry(b"b", "h/other:1", "1"), entry(b"c", "h/other:2", "2")]


@pytest.mark.parametrize(
    ("entries", "tag", "found"),
    [
        ([A1], None, [b"a"]),
        ([A1, entry(b"b")], None, [b"a"]),
        ([entry(b"a")], None, [b"a"]),
        ([A1, B1, entry(b"c", "latest")], None, [b"c"]),
        ([A1, B1], "two", [b"b"]),
        ([A1, A1], "one", [b"a"]),
        ([entry(b"a", " odd:tag\x1b")], " odd:tag\x1b", [b"a"]),
        ([entry(b"a", "x", media_type=INDEX)], "x", [b"a"]),
        ([entry(b"a", "x", platform="amd64"), entry(b"b", "x", platform="arm64")], "x", [b"a", b"b"]),
        ([entry(b"a", platform="amd64"), entry(b"b", platform="arm64")], None, [b"a", b"b"]),
        (NAMED, "h/app:1", [b"a"]),
        (NAMED, "app:1", [b"a"]),
        (NAMED, "other:1", [b"b"]),
        (NAMED, "2", [b"c"]),
        ([A1, entry(b"b", "two", media_type="text/plain")], None, [b"a"]),
        ([A1, entry(b"b", "two") | {"artifactType": "x"}], None, [b"a"]),
    ],
)
def test_tags(tmp_path: Path, entries: list[Json], tag: str | None, found: list[bytes]) -> None:
    with closing(open_files(tmp_path, index_files(*entries))) as layout:
        resolved = layout.resolve(Reference("x", "x", tag=tag))
    assert [descriptor.digest for descriptor in resolved] == [digest(content) for content in found]


@pytest.mark.parametrize(
    ("entries", "tag", "message"),
    [
        ([], None, "has no image"),
        ([], "x", "no image 'x' .*it has none"),
        ([A1, B1], None, "several images, name one: choose one of :one, :two$"),
        ([A1, B1], "three", "no image 'three' .*choose one of :one, :two$"),
        ([A1, B1], "\x1b", r"no image '\\x1b'"),
        ([entry(b"a", "x"), entry(b"b", "x")], "x", f"several images: .*@{digest(b'a')}, @{digest(b'b')}"),
        ([entry(b"a"), entry(b"b")], None, "several images"),
        ([entry(b"a", "x", platform="arm"), entry(b"b", "x", platform="arm")], "x", "several images"),
        ([entry(b"a", "x", platform="arm"), entry(b"b", "x")], "x", "several images"),
        (NAMED, "1", "several images: choose one of :h/app:1, :h/other:1$"),
        (NAMED, None, "name one"),
    ],
)
def test_tags_without_one_image(tmp_path: Path, entries: list[Json], tag: str | None, message: str) -> None:
    with closing(open_files(tmp_path, index_files(*entries))) as layout:
        with pytest.raises(NotFoundError, match=message) as caught:
            layout.resolve(Reference("x", "x", tag=tag))
        assert str(caught.value).isprintable()


SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
ARTIFACT = entry(b"c", "sbom") | {"artifactType": "application/spdx\x1b"}
OLD_ARTIFACT = entry(b"d", "old", media_type="application/vnd.oci.artifact.manifest.v1+json")


@pytest.mark.parametrize(
    ("entries", "reference", "message"),
    [
        (
            [A1, entry(b"b", "v1", media_type=SCHEMA_1)],
            Reference("x", "x", tag="v1"),
            "'v1' in .* is a Docker schema 1 m",
        ),
        (
            [A1, ARTIFACT],
            Reference("x", "x", tag="sbom"),
            r"is an artifact of the type 'application/spdx\\x1b', not a con",
        ),
        ([A1, ARTIFACT], Reference("x", "x", position=1), "@1 of .* is an artifact of the type"),
        ([OLD_ARTIFACT, A1], Reference("x", "x", tag="old"), "is an artifact manifest, not a container image"),
        ([OLD_ARTIFACT], Reference("x", "x"), "has no image, only an artifact manifest, not a container image"),
        (
            [entry(b"b", media_type=SCHEMA_1)],
            Reference("x", "x"),
            "has no image, only a Docker schema 1 manifest: conv",
        ),
        (
            [entry(b"b", "t", media_type="text/plain")],
            Reference("x", "x", tag="t"),
            "is not an image manifest or index but 'text/plain'",
        ),
    ],
)
def test_a_tag_that_is_no_image(tmp_path: Path, entries: list[Json], reference: Reference, message: str) -> None:
    with closing(open_files(tmp_path, index_files(*entries))) as layout:
        with pytest.raises(UnsupportedError, match=message) as caught:
            layout.resolve(reference)
        assert str(caught.value).isprintable()


def test_images_come_first_whatever_else_is_listed(tmp_path: Path) -> None:
    """So that artifacts do not change what a position names."""
    with closing(open_files(tmp_path, index_files(ARTIFACT, A1, OLD_ARTIFACT, B1))) as layout:
        assert [named.names for named in layout.images()] == [("one",), ("two",), ("sbom",), ("old",)]
        assert layout.resolve(Reference("x", "x", position=1))[0].digest == digest(b"b")


def test_many_choices_make_a_short_message(tmp_path: Path) -> None:
    entries = [entry(str(i).encode(), f"tag{i}") for i in range(1000)]
    with closing(open_files(tmp_path, index_files(*entries))) as layout:
        with pytest.raises(NotFoundError, match="…") as caught:
            layout.resolve(Reference("x", "x"))
        assert len(str(caught.value)) < 1000


def test_position(tmp_path: Path) -> None:
    with closing(open_files(tmp_path, index_files(A1, B1))) as layout:
        assert layout.resolve(Reference("x", "x", position=1))[0].digest == digest(b"b")
        with pytest.raises(NotFoundError, match="no image @2: choose one of :one, :two"):
            layout.resolve(Reference("x", "x", position=2))


def test_digest_in_the_index_and_in_the_blobs_only(tmp_path: Path) -> None:
    files = layout_files(Image((ONE,), "one"), Image((TWO,), "two"))
    manifests = [Digest(path.replace("blobs/sha256/", "sha256:")) for path in files if b'"layers":' in files[path]]
    del files["index.json"]
    with closing(open_files(tmp_path, files | index_files())) as layout:
        for manifest in manifests:
            (descriptor,) = layout.resolve(Reference("x", "x", digest=manifest))
            assert (descriptor.digest, descriptor.media_type) == (manifest, MANIFEST)
        with pytest.raises(NotFoundError, match=f"no image {X}"):
            layout.resolve(Reference("x", "x", digest=Digest(X)))
        with pytest.raises(InvalidImageError, match="not valid JSON"):
            layout.resolve(Reference("x", "x", digest=Digest(digest(ONE.blob))))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"oci-layout": None}, InvalidImageError, "is not an OCI layout"),
        ({"oci-layout": b""}, InvalidImageError, "oci-layout is not valid JSON"),
        ({"oci-layout": b"{}"}, InvalidImageError, "imageLayoutVersion"),
        ({"oci-layout": b'{"imageLayoutVersion":"2.0.0"}'}, UnsupportedError, "'2.0.0'; ocifs reads 1.0.x"),
        ({"index.json": None}, NotFoundError, "has no .*index.json"),
        ({"index.json": b"[]"}, InvalidImageError, "not a JSON object"),
        ({"index.json": b"[" * 100_000}, LimitError, "levels deep"),
        ({"index.json": b" " * (5 << 20)}, LimitError, "5242880 bytes"),
        ({"index.json": to_json({"schemaVersion": 2, "layers": []})}, InvalidImageError, "is a manifest, not an image"),
        (
            {"index.json": to_json(index_of([]) | {"mediaType": MANIFEST})},
            InvalidImageError,
            "is a manifest, not an im",
        ),
        (
            {"index.json": to_json(index_of([]) | {"mediaType": "x"})},
            InvalidImageError,
            "is 'x', which is not an image index",
        ),
        ({"index.json": to_json(index_of([]) | {"layers": []})}, InvalidImageError, "both"),
    ],
)
@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_bad_layouts(
    tmp_path: Path, kind: str, changes: dict[str, bytes | None], error: type[OcifsError], message: str
) -> None:
    changed = layout_files(Image()) | changes
    files = {path: data for path, data in changed.items() if data is not None}
    folder = (
        Directory.at(str(write_directory(tmp_path / "x", files)))
        if kind == "directory"
        else Archive.at(str(write_archive(tmp_path / "x", files)))
    )
    with closing(folder), pytest.raises(error, match=message) as caught:
        open_layout(folder)
    assert str(tmp_path) in str(caught.value)


def layer_descriptor(layer: Layer, **members: object) -> Descriptor:
    blob = layer.blob
    described = {"media_type": "m", "digest": Digest(digest(blob)), "size": len(blob)} | members
    return Descriptor(**described)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_blobs_are_pieces_of_files(tmp_path: Path, kind: str) -> None:
    files = layout_files(Image((ONE, TWO, ONE)))
    with closing(
        open_files(tmp_path / "x", files)
        if kind == "directory"
        else open_layout(Archive.at(str(write_archive(tmp_path / "x", files))))
    ) as layout:
        for layer in (ONE, TWO):
            blob = layout.open(layer_descriptor(layer))
            assert isinstance(blob, FileSection)
            assert os.pread(blob.fd, blob.size, blob.offset) == blob.pread(1 << 20, 0) == layer.blob
            assert blob.pread(5, 3) == layer.blob[3:8]
            assert blob.pread(5, blob.size) == b""
            assert layout.open(layer_descriptor(layer)) is blob


def test_embedded_data_has_a_file_too(tmp_path: Path) -> None:
    descriptor = layer_descriptor(ONE, data=ONE.blob)
    with closing(open_files(tmp_path, index_files())) as layout:
        blob = layout.open(descriptor)
        assert isinstance(blob, FileSection)
        assert os.pread(blob.fd, blob.size, blob.offset) == ONE.blob


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ({"digest": Digest(X)}, NotFoundError, f"cannot read blob {X}: .* has no blobs/sha256/.*copy the image"),
        ({"digest": Digest(X), "urls": ("u",)}, NotFoundError, "`urls` are not followed"),
        ({"size": 5}, InvalidImageError, "its descriptor says 5"),
        ({"size": 2**63 - 1}, InvalidImageError, "its descriptor says"),
        ({"data": b"other"}, InvalidImageError, "embedded"),
        ({"data": ONE.blob, "size": 5}, InvalidImageError, "its descriptor says 5"),
    ],
)
def test_bad_blobs(tmp_path: Path, members: Json, error: type[OcifsError], message: str) -> None:
    with (
        closing(open_files(tmp_path, layout_files(Image((ONE,))))) as layout,
        pytest.raises(error, match=message),
    ):
        layout.open(layer_descriptor(ONE, **members))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to(path), "is behind more than 40 symlinks"),
        (lambda path: path.symlink_to(path.name), "is behind more than 40 symlinks"),
        (os.mkfifo, "not a regular file"),
        (Path.mkdir, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "leads out of the layout: allow that with --follow-links"),
        (lambda path: path.symlink_to("../" * 9 + "etc/passwd"), "leads out of the layout"),
        (lambda path: path.symlink_to(path.parent), "not a regular file"),
    ],
)
@pytest.mark.parametrize("file", ["oci-layout", "index.json", "blob"])
def test_files_that_are_none(tmp_path: Path, file: str, make: Callable[[Path], None], message: str) -> None:
    files = layout_files(Image((ONE,)))
    layout_path = write_directory(tmp_path / "x", files)
    path = layout_path / (BLOB if file == "blob" else file)
    path.unlink()
    make(path)
    with (
        closing(Directory.at(str(layout_path))) as directory,
        pytest.raises(InvalidImageError, match=message),
    ):
        open_layout(directory).open(layer_descriptor(ONE))


# Symlinks

BLOB = f"blobs/{digest(ONE.blob).replace(':', '/')}"


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A layout without the file of its layer, which lies beside it, and in another directory of the layout."""
    path = write_directory(tmp_path / "x", layout_files(Image((ONE,))))
    (path / BLOB).unlink()
    for place in (path / "store", tmp_path / "x2"):
        place.mkdir()
        (place / "blob").write_bytes(ONE.blob)
    return path


def read_layer(path: Path, *, follow_links: bool = False) -> bytes:
    with closing(open_layout(Directory.at(str(path), follow_links=follow_links))) as layout:
        return layout.open(layer_descriptor(ONE)).pread(1 << 20, 0)


@pytest.mark.parametrize(
    "target",
    [
        "../../store/blob",
        ".././../store//blob",
        "../../blobs/../store/blob",
        "../../blobs/sha256/../sha256/../../store/blob",
        "LAYOUT/store/blob",
        "LAYOUT/./store/../store/blob",
        "../../link/blob",
    ],
)
def test_a_blob_may_be_a_symlink_that_stays_in_the_layout(linked: Path, target: str) -> None:
    (linked / "link").symlink_to("store")
    (linked / BLOB).symlink_to(target.replace("LAYOUT", str(linked)))
    assert read_layer(linked) == read_layer(linked, follow_links=True) == ONE.blob


@pytest.mark.parametrize(
    "target",
    [
        "../../../x2/blob",
        "OUTSIDE/x2/blob",
        "LAYOUT/../x2/blob",
        "LAYOUT2/blob",
        "../../store/../../x2/blob",
        "../../link/blob",
        "../../store/../absolute",
        "../../../x/store/blob",
    ],
)
def test_links_that_leave_the_layout_need_an_option(linked: Path, target: str) -> None:
    """Even one that comes back, since what it leads through is not the layout's."""
    (linked / "link").symlink_to("../x2")
    (linked / "absolute").symlink_to(linked.parent / "x2/blob")
    target = target.replace("LAYOUT2", f"{linked}2").replace("LAYOUT", str(linked))
    (linked / BLOB).symlink_to(target.replace("OUTSIDE", str(linked.parent)))
    with pytest.raises(InvalidImageError, match=f"{linked}/{BLOB} is a symlink that leads out .*--follow-links"):
        read_layer(linked)
    assert read_layer(linked, follow_links=True) == ONE.blob


@pytest.mark.parametrize("target", ["../../nothing", "nothing/../../../store/blob"])
@pytest.mark.parametrize("follow_links", [False, True])
def test_links_to_nothing(linked: Path, target: str, follow_links: bool) -> None:
    (linked / BLOB).symlink_to(target)
    with pytest.raises(NotFoundError, match="cannot read blob sha256:"):
        read_layer(linked, follow_links=follow_links)


def test_only_files_are_opened_wherever_links_lead(linked: Path) -> None:
    (linked / BLOB).symlink_to("/dev/zero")
    with pytest.raises(InvalidImageError, match="not a regular file"):
        read_layer(linked, follow_links=True)


def test_forty_links_are_followed_and_no_more(linked: Path) -> None:
    (linked / BLOB).symlink_to("../../l0")
    for number in range(39):
        (linked / f"l{number}").symlink_to(f"l{number + 1}")
    (linked / "l39").write_bytes(ONE.blob)
    assert read_layer(linked) == ONE.blob
    (linked / "l39").rename(linked / "l40")
    (linked / "l39").symlink_to("l40")
    with pytest.raises(InvalidImageError, match="more than 40"):
        read_layer(linked)


def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere_else(linked: Path) -> None:
    (linked / BLOB).symlink_to("../../store/blob")
    (linked / "store/blob").write_bytes(b"inside")
    (linked / "link").symlink_to("../x2")
    done = threading.Event()

    def exchange() -> None:
        while not done.is_set():
            for name, other in (("store", "kept"), ("link", "store"), ("store", "link"), ("kept", "store")):
                (linked / name).rename(linked / other)

    exchanging = threading.Thread(target=exchange)
    exchanging.start()
    try:
        with closing(Directory.at(str(linked))) as directory:
            for _ in range(500):
                with suppress(InvalidImageError, NotFoundError):
                    assert directory.open(BLOB).pread(100, 0) == b"inside"
    finally:
        done.set()
        exchanging.join()


@pytest.mark.parametrize("target", ["elsewhere/blobs", "./elsewhere/../elsewhere/blobs", "ABSOLUTE"])
def test_blobs_may_be_a_symlink_that_stays_below(tmp_path: Path, target: str) -> None:
    path = write_directory(tmp_path / "x", layout_files(Image((ONE,))))
    (path / "elsewhere").mkdir()
    (path / "blobs").rename(path / "elsewhere/blobs")
    (path / "blobs").symlink_to(target.replace("ABSOLUTE", str(path / "elsewhere/blobs")))
    assert read_layer(path) == ONE.blob


@pytest.mark.parametrize("target", ["../x2/blobs", "ABSOLUTE"])
def test_blobs_may_not_lead_out(tmp_path: Path, target: str) -> None:
    path = write_directory(tmp_path / "x", layout_files(Image((ONE,))))
    (tmp_path / "x2").mkdir()
    (path / "blobs").rename(tmp_path / "x2/blobs")
    (path / "blobs").symlink_to(target.replace("ABSOLUTE", str(tmp_path / "x2/blobs")))
    with pytest.raises(InvalidImageError, match="leads out of the layout"):
        read_layer(path)
    assert read_layer(path, follow_links=True) == ONE.blob


@pytest.mark.parametrize("follow_links", [False, True])
def test_nothing_is_written_outside_of_the_layout(tmp_path: Path, follow_links: bool) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x2").mkdir()
    (tmp_path / "x/blobs").symlink_to("../x2")
    with closing(Directory.at(str(tmp_path / "x"), follow_links=follow_links)) as directory:
        with pytest.raises(InvalidImageError, match="leads out of the layout"):
            directory.write("blobs/sha256/x", BytesReader(b"x"))
        (tmp_path / "x/inside").mkdir()
        (tmp_path / "x/blobs").unlink()
        (tmp_path / "x/blobs").symlink_to("inside")
        directory.write("blobs/sha256/x", BytesReader(b"x"))
    assert list((tmp_path / "x2").iterdir()) == []
    assert (tmp_path / "x/inside/sha256/x").read_bytes() == b"x"


def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No such file"):
        Directory.at(str(tmp_path / "x"))
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="Not a directory"):
        Directory.at(str(tmp_path / "file"))
