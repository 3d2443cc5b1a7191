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
from ocifs.reader import FileSection
from ocifs.sources.archive import Archive
from ocifs.sources.docker_archive import DockerArchive, open_docker_archive
from ocifs.sources.reference import Reference
from ocifs.spec.config import parse_config
from ocifs.spec.digest import Digest
from ocifs.spec.manifest import Manifest, parse_document
from tests import tars
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
    manifest = parse_document(source.document(descriptor), "m", descriptor.media_type)
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


ALL = "choose one of :example/one:1, :example/two:1, :@2$"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (Reference("ref", "path"), f"a.tar has several images, name one: {ALL}"),
        (Reference("ref", "path", tag="three"), f"no image 'three' in .*a.tar: {ALL}"),
        (Reference("ref", "path", tag=""), f"no image '' in .*a.tar: {ALL}"),
        (Reference("ref", "path", tag="\x1b"), r"no image '\\x1b' in"),
        (Reference("ref", "path", tag="1"), "ref names several images: choose one of :example/one:1, :example/two:1$"),
        (Reference("ref", "path", position=3), f"a.tar has no image @3: {ALL}"),
        (Reference("ref", "path", digest=Digest(digest(b"x"))), f"no image sha256:.* in .*a.tar: {ALL}"),
    ],
)
def test_selectors_that_name_no_image(tmp_path: Path, reference: Reference, message: str) -> None:
    files = docker_files((ONE, ["example/one:1"]), (TWO, ["example/two:1"]), (Image(()), []))
    with closing(open_files(tmp_path, files)) as source, pytest.raises(NotFoundError, match=message) as caught:
        source.resolve(reference)
    assert str(caught.value).isprintable()


def test_latest_is_taken_of_several_images(tmp_path: Path) -> None:
    files = docker_files((ONE, ["app:1"]), (TWO, ["app:latest"]))
    with closing(open_files(tmp_path, files)) as source:
        assert layers_of(resolve(source)) == [digest(layer.tar) for layer in TWO.layers]


def test_many_choices_make_a_short_message(tmp_path: Path) -> None:
    config, names = docker_files((ONE, [])), [f"app:{n}" for n in range(1000)]
    (item,) = json.loads(config["manifest.json"])
    config["manifest.json"] = to_json([item | {"RepoTags": [name]} for name in names])
    with closing(open_files(tmp_path, config)) as source:
        with pytest.raises(NotFoundError, match=r":app:19, …$") as caught:
            resolve(source)
        assert len(str(caught.value)) < 1000


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
        assert isinstance(blob, FileSection)
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
        ({"manifest.json": b"[]"}, NotFoundError, "a.tar has no image$"),
        ({"manifest.json": b'[{"Config": "a", "config": "b"}]'}, InvalidImageError, "key 'Config' occurs twice"),
        ({"repositories": b"{}", f"{'0' * 64}/json": b"{}"}, UnsupportedError, "Docker before 1.10, .*save it again$"),
        ({f"{'0' * 64}/json": b"{}", f"{'0' * 64}/VERSION": b"1.0"}, UnsupportedError, "before 1.10"),
        (changed(Config="no\x1b"), NotFoundError, r"no member no\\x1b"),
        (changed(Config="../../etc/passwd"), NotFoundError, "no member"),
        (changed(Layers=["missing"]), NotFoundError, "no member missing"),
        (changed(Layers=[]), InvalidImageError, "1 diff ID for 0 layers"),
        (changed(Layers=["l.tar"]) | BZ2_LAYER, UnsupportedError, "l.tar of .* compressed with bzip2"),
        (changed(Layers=[5]), InvalidImageError, "Layers"),
    ],
)
def test_bad_archives(tmp_path: Path, files: Files, error: type[OcifsError], message: str) -> None:
    with closing(Archive.at(str(write_archive(tmp_path / "a.tar", files)))) as archive:
        with pytest.raises(error, match=message) as caught:
            resolve(open_docker_archive(archive))
        assert str(caught.value).isprintable()


def written_twice(path: Path, first: Files, second: Files) -> Path:
    """Write an archive that has the members of both."""
    members = [tars.file(name.encode(), data) for files in (first, second) for name, data in files.items()]
    path.write_bytes(tars.tar(members))
    return path


def test_members_may_occur_twice_with_the_same_bytes(tmp_path: Path) -> None:
    """As kaniko and rules_docker write a layer that an image has twice."""
    files = docker_files((TWO, []))
    with closing(open_docker_archive(Archive.at(str(written_twice(tmp_path / "a.tar", files, files))))) as source:
        manifest = resolve(source)
        assert layers_of(manifest) == [digest(layer.tar) for layer in TWO.layers]
        assert source.open(manifest.layers[0]).pread(1 << 20, 0) == TWO.layers[0].tar


@pytest.mark.parametrize("what", ["manifest.json", "config", "layer"])
def test_members_that_occur_twice_with_other_bytes_are_refused(tmp_path: Path, what: str) -> None:
    files = docker_files((ONE, []))
    (item,) = json.loads(files["manifest.json"])
    name = {"manifest.json": "manifest.json", "config": item["Config"], "layer": item["Layers"][0]}[what]
    path = written_twice(tmp_path / "a.tar", files, {name: files[name] + b" "})
    with (
        closing(Archive.at(str(path))) as archive,
        pytest.raises(InvalidImageError, match=rf"member {name} .*occurs twice with different bytes"),
    ):
        resolve(open_docker_archive(archive))


def test_members_of_json_in_any_case(tmp_path: Path) -> None:
    """As old versions of jib write them, and Go reads them."""
    files = docker_files((ONE, ["app:1"]))
    (item,) = json.loads(files["manifest.json"])
    files["manifest.json"] = to_json([{name[:1].lower() + name[1:]: value for name, value in item.items()}])
    config = json.loads(files[item["Config"]])
    odd = {"RootFS": {"TYPE": "layers", "Diff_IDs": config["rootfs"]["diff_ids"]}, "OS": "linux", "Architecture": "arm"}
    files[item["Config"]] = to_json(odd | {"Config": {"entrypoint": ["/run"], "workingdir": "/w"}})
    with closing(open_files(tmp_path, files)) as source:
        manifest = resolve(source, "app:1")
        read = parse_config(source.document(manifest.config), "x")
    assert layers_of(manifest) == [digest(ONE.layers[0].tar)]
    assert (read.os, read.architecture, read.config.entrypoint, read.config.working_dir) == (
        "linux", "arm", ("/run",), "/w",
    )  # fmt: skip
