import bz2
import io
import json
import os
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, UnsupportedError
from ocifs.sources.archive import Archive
from ocifs.sources.docker_archive import DockerArchive, open_docker_archive
from ocifs.sources.reference import Reference
from ocifs.sources.source import read_document
from ocifs.spec.manifest import Manifest, parse_document
from tests.images import (
    LAYER,
    Files,
    Image,
    Layer,
    digest,
    docker_files,
    tar,
    to_json,
    write_archive,
    write_docker_archive,
)

ONE = Image((Layer(tar({"one": b"1"}), "tar"),))
TWO = Image((Layer(tar({"two": b"2"}), "tar"), Layer(tar({"two": b"2"}), "tar")))


def open_files(path: Path, files: Files) -> DockerArchive:
    return open_docker_archive(Archive.at(str(write_archive(path / "a.tar", files))))


def resolve(source: DockerArchive, tag: str | None = None, position: int | None = None) -> Manifest:
    (descriptor,) = source.resolve(Reference("ref", "path", tag=tag, position=position))
    manifest = parse_document(read_document(source, descriptor), "m", descriptor.media_type)
    assert isinstance(manifest, Manifest)
    return manifest


def layers_of(manifest: Manifest) -> list[str]:
    return [layer.digest for layer in manifest.layers]


@pytest.mark.parametrize(
    ("tag", "position", "expected"),
    [
        ("example/one:1", None, ONE),
        ("one:1", None, ONE),
        ("one:latest", None, ONE),
        ("two:1", None, TWO),
        (None, 0, ONE),
        (None, 1, TWO),
        (None, 2, Image(())),
    ],
)
def test_selectors(tmp_path: Path, tag: str | None, position: int | None, expected: Image) -> None:
    files = docker_files((ONE, ["example/one:1", "one:latest"]), (TWO, ["example/two:1"]), (Image(()), []))
    with closing(open_files(tmp_path, files)) as source:
        manifest = resolve(source, tag, position)
        assert layers_of(manifest) == [digest(layer.tar) for layer in expected.layers]


@pytest.mark.parametrize(("tag", "position"), [(None, None), ("three", None), ("1", None), (None, 3), ("", None)])
def test_selectors_that_name_no_image(tmp_path: Path, tag: str | None, position: int | None) -> None:
    files = docker_files((ONE, ["example/one:1"]), (TWO, ["example/two:1"]), (Image(()), []))
    with (
        closing(open_files(tmp_path, files)) as source,
        pytest.raises(NotFoundError, match="choose: :example/one:1, :example/two:1, :@2"),
    ):
        resolve(source, tag, position)


def test_the_only_image_needs_no_selector(tmp_path: Path) -> None:
    write_docker_archive(tmp_path / "a.tar", (ONE, []))
    with closing(open_docker_archive(Archive.at(str(tmp_path / "a.tar")))) as source:
        assert layers_of(resolve(source)) == [digest(ONE.layers[0].tar)]


@pytest.mark.parametrize("compression", ["tar", "gzip", "zstd"])
@pytest.mark.parametrize("blobs", [False, True])
def test_layers_are_sniffed(tmp_path: Path, compression: Literal["tar", "gzip", "zstd"], blobs: bool) -> None:
    layer = Layer(tar({"x": b"y" * 3_000_000}), compression)
    files = docker_files((Image((layer, layer)), []))
    if blobs:
        (item,) = json.loads(files["manifest.json"])
        files["blobs/sha256/" + digest(layer.blob)[7:]] = files.pop(item["Layers"][0])
        item["Layers"] = ["blobs/sha256/" + digest(layer.blob)[7:]] * 2
        files["manifest.json"] = to_json([item])
    with closing(open_files(tmp_path, files)) as source:
        manifest = resolve(source)
        suffix = "" if compression == "tar" else f"+{compression}"
        assert [each.media_type for each in manifest.layers] == [LAYER + suffix] * 2
        assert layers_of(manifest) == [digest(layer.blob)] * 2
        blob = source.open(manifest.layers[0])
        assert os.pread(blob.fd, blob.size, blob.offset) == layer.blob


def test_the_manifest_is_always_the_same(tmp_path: Path) -> None:
    found = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with closing(open_files(tmp_path / name, docker_files((ONE, [name])))) as source:
            found.add(source.resolve(Reference("ref", "path"))[0].digest)
    assert len(found) == 1


def test_legacy_layers_are_symlinks(tmp_path: Path) -> None:
    files = docker_files((ONE, []))
    (item,) = json.loads(files["manifest.json"])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            if name == "manifest.json":
                continue
            link = tarfile.TarInfo(f"v1/{name}/layer.tar")
            link.type, link.linkname = tarfile.SYMTYPE, f"../../{name}"
            archive.addfile(link)
    with closing(open_docker_archive(Archive.at(str(tmp_path / "a.tar")))) as source:
        assert layers_of(resolve(source)) == [digest(ONE.layers[0].tar)]
    assert item["Layers"]


def changed(**members: object) -> Files:
    files = docker_files((ONE, ["example/one:1"]))
    (item,) = json.loads(files["manifest.json"])
    return files | {"manifest.json": to_json([item | members])}


BZ2_LAYER = {"l.tar": bz2.compress(ONE.layers[0].tar)}


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, InvalidImageError, "not written by `docker save`"),
        ({"manifest.json": b"{}"}, InvalidImageError, "manifest.json of .* is malformed"),
        ({"manifest.json": b"[{}]"}, InvalidImageError, "Config"),
        ({"manifest.json": b"[]"}, NotFoundError, "it has no image"),
        (changed(Config="no\x1b"), NotFoundError, r"no member no\\x1b"),
        (changed(Config="../../etc/passwd"), NotFoundError, "no member"),
        (changed(Layers=["missing"]), NotFoundError, "no member missing"),
        (changed(Layers=[]), InvalidImageError, "1 diff IDs for 0 layers"),
        (changed(Layers=["l.tar"]) | BZ2_LAYER, UnsupportedError, "l.tar of .* compressed with bzip2"),
        (changed(Layers=[5]), InvalidImageError, "Layers"),
    ],
)
def test_bad_archives(tmp_path: Path, files: Files, error: type[OcifsError], message: str) -> None:
    with closing(Archive.at(str(write_archive(tmp_path / "a.tar", files)))) as archive:
        with pytest.raises(error, match=message) as caught:
            resolve(open_docker_archive(archive))
        assert str(caught.value).isprintable()


def test_manifest_json_may_not_occur_twice(tmp_path: Path) -> None:
    data = tar(dict(docker_files((ONE, []))))
    (tmp_path / "a.tar").write_bytes(data.rstrip(b"\0").ljust(-(-len(data.rstrip(b"\0")) // 512) * 512, b"\0") + data)
    with (
        closing(Archive.at(str(tmp_path / "a.tar"))) as archive,
        pytest.raises(InvalidImageError, match=r"manifest.json .*occurs twice"),
    ):
        open_docker_archive(archive)
