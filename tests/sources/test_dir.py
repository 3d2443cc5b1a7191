from contextlib import closing
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, LimitError, NotFoundError, OcifsError, UnsupportedError
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.sources.reference import parse_reference
from ocifs.sources.resolve import ResolvedImage, open_source, resolve_image
from ocifs.spec.platform import Platform
from tests.images import (
    Files,
    Image,
    Layer,
    add_image,
    blob_path,
    digest,
    dir_files,
    index_of,
    layout_files,
    tar,
    to_json,
    write_directory,
)

IMAGE = Image((Layer(), Layer(tar({"x": b"1"}), "tar")))
ARM = Image(platform={"os": "linux", "architecture": "arm64"})
AMD = Image(platform={"os": "linux", "architecture": "amd64"}, layers=(Layer(tar({"amd": b""})),))


def resolve(text: str, platform: str | None = None, limits: Limits = DEFAULT_LIMITS) -> ResolvedImage:
    reference = parse_reference(text)
    with closing(open_source(reference, limits)) as source:
        image = resolve_image(source, reference, Platform.parse(platform) if platform else None)
        for layer in image.layers:
            blob = source.open(layer.descriptor)
            assert digest(blob.pread(blob.size, 0)) == layer.descriptor.digest
        return image


def index_files() -> Files:
    """Return what `skopeo copy --all` writes of an image for two platforms."""
    files: Files = {}
    listed = [add_image(files, image) for image in (ARM, AMD)]
    names = {blob_path(str(each["digest"])): f"{str(each['digest'])[7:]}.manifest.json" for each in listed}
    named = {names.get(path, path.rpartition("/")[2]): data for path, data in files.items()}
    return named | {"manifest.json": to_json(index_of(listed))}


@pytest.mark.parametrize("reference", ["dir:{}", "{}", "dir:{}:@0", "dir:{}@{}", "{}@{}"])
def test_an_image_of_files(tmp_path: Path, reference: str) -> None:
    files = dir_files(IMAGE)
    path = write_directory(tmp_path / "d", files)
    image = resolve(reference.format(path, digest(files["manifest.json"])))
    assert image.digest == digest(files["manifest.json"])
    assert len(image.layers) == 2


@pytest.mark.parametrize("version", [None, b"Directory Transport Version: 1.0\n", b"Directory Transport Version: 1.1"])
def test_versions(tmp_path: Path, version: bytes | None) -> None:
    files = dir_files(IMAGE)
    files.pop("version")
    write_directory(tmp_path, files if version is None else files | {"version": version})
    assert resolve(f"dir:{tmp_path}").layers


def test_other_algorithms_are_in_the_names(tmp_path: Path) -> None:
    files = dir_files(Image(algorithm="sha512", layers=(Layer(),)))
    named = {f"sha512-{name}" if len(name) == 128 else name: data for name, data in files.items()}
    reference = parse_reference(f"dir:{write_directory(tmp_path, named)}")
    with closing(open_source(reference)) as source:
        assert resolve_image(source, reference).layers[0].descriptor.digest.algorithm == "sha512"


def test_an_index_of_platforms(tmp_path: Path) -> None:
    files = index_files()
    write_directory(tmp_path, files)
    arm, amd = (resolve(f"dir:{tmp_path}", f"linux/{each}") for each in ("arm64", "amd64"))
    assert arm.digest != amd.digest
    assert resolve(f"dir:{tmp_path}@{amd.digest}").config == amd.config


def test_a_layout_with_such_a_file_stays_a_layout(tmp_path: Path) -> None:
    write_directory(tmp_path, layout_files(IMAGE) | {"manifest.json": b"[]"})
    assert resolve(f"{tmp_path}:latest").layers


LAYER = digest(Layer().blob)


@pytest.mark.parametrize(
    ("change", "reference", "error", "message"),
    [
        ({}, "dir:{}:latest", NotFoundError, "has no image 'latest': it holds one image, without a tag"),
        ({}, "dir:{}:@1", NotFoundError, "has no image @1"),
        ({}, "dir:{}@" + digest(b"x"), NotFoundError, "no image sha256:.* it holds sha256:"),
        ({"manifest.json": None}, "dir:{}", InvalidImageError, "was not written by `skopeo copy … dir:DIR`"),
        ({"manifest.json": b"["}, "dir:{}", InvalidImageError, "manifest.json"),
        ({"version": b"Directory Transport Version: 2.0\n"}, "dir:{}", UnsupportedError, "ocifs reads versions 1.x"),
        ({"version": b"\x1b[2J" * 99}, "dir:{}", UnsupportedError, "states"),
        ({LAYER[7:]: None}, "dir:{}", NotFoundError, "cannot read blob .*copy the image again"),
        ({LAYER[7:]: b"short"}, "dir:{}", InvalidImageError, "has 5 bytes, its descriptor says"),
        ({"manifest.json": b" " * 5000}, "dir:{}", LimitError, "5000 bytes"),
    ],
)
def test_refused(
    tmp_path: Path, change: dict[str, bytes | None], reference: str, error: type[OcifsError], message: str
) -> None:
    changed = dir_files(IMAGE) | change
    write_directory(tmp_path, {name: data for name, data in changed.items() if data is not None})
    with pytest.raises(error, match=message) as caught:
        resolve(reference.format(tmp_path), limits=Limits(document=4096))
    assert str(caught.value).isprintable()


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    write_directory(tmp_path / "d", dir_files(IMAGE))
    (tmp_path / "secret").write_bytes(Layer().blob)
    (tmp_path / "d" / LAYER[7:]).unlink()
    (tmp_path / "d" / LAYER[7:]).symlink_to("../secret")
    with pytest.raises(InvalidImageError, match="leads out"):
        resolve(f"dir:{tmp_path / 'd'}")


def test_a_manifest_of_the_index_is_missing(tmp_path: Path) -> None:
    files = {name: data for name, data in index_files().items() if not name.endswith(".manifest.json")}
    with pytest.raises(NotFoundError, match="skopeo copy --all"):
        resolve(f"dir:{write_directory(tmp_path, files)}", "linux/arm64")
