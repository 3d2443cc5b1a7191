"""What an image says of itself, before and after it is indexed."""

import json
from pathlib import Path

from ocifs.image.opening import open_image
from ocifs.options import Options
from ocifs.report.inspection import Inspection, ListedImage, image_lines, inspect_image, inspection_lines, list_images
from ocifs.sources.reference import parse_reference
from ocifs.sources.resolve import open_source, resolve_image
from ocifs.store import Store
from tests.images import (
    REF_NAME,
    Image,
    Json,
    Layer,
    add_image,
    add_index,
    digest,
    index_of,
    layout_files,
    to_json,
    write_directory,
    write_docker_archive,
    write_layout,
)
from tests.tars import file, tar

UPPER = Layer(tar([file(b".wh.a"), file(b"d/.wh..wh..opq"), file(b"d/.wh..wh.plnk"), file(b"b.wh.c")]), "zstd")
CONFIG: Json = {
    "created": "2001-02-03T04:05:06Z",
    "author": "some\x1bone",
    "config": {
        "Env": ["A=1", "B=2"],
        "Entrypoint": ["/bin/sh", "-c"],
        "User": "nobody",
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "Labels": {"a.b": "c"},
        "WorkingDir": "/w",
        "StopSignal": "SIGINT",
    },
}
IMAGE = Image((Layer(), UPPER), config=CONFIG, manifest={"annotations": {"note": "text"}})


def inspected(layout: Path, store: Store) -> tuple[Inspection, list[str]]:
    reference = parse_reference(str(layout))
    source = open_source(reference)
    image = inspect_image(resolve_image(source, reference), store)
    source.close()
    return image, list(inspection_lines(image))


def test_a_cold_image_answers_and_nothing_is_indexed(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    layout = write_layout(tmp_path / "image", IMAGE)
    image, lines = inspected(layout, store)
    assert store.entries() == []
    assert not image.merged
    layers = image.layers
    assert [(layer.indexed, layer.entries, layer.whiteouts) for layer in layers] == [(False, None, None)] * 2
    assert layers[0].diff_id == layers[0].chain_id == digest(Layer().tar)
    assert layers[1].chain_id == digest(f"{digest(Layer().tar)} {digest(UPPER.tar)}".encode())
    assert [layer.digest for layer in layers] == [digest(Layer().blob), digest(UPPER.blob)]
    assert lines[-1] == f"             {len(UPPER.blob)} B, not indexed yet"
    for line in (
        'Entrypoint:  ["/bin/sh","-c"]',
        "User:        nobody",
        "Env:         A=1",
        "             B=2",
        "Port:        80/tcp",
        "Volume:      /data",
        "Label:       a.b=c",
        "Working dir: /w",
        "Stop signal: SIGINT",
        "Annotation:  note=text",
        "Platform:    linux/amd64",
        "Created:     2001-02-03T04:05:06Z",
        r"Author:      some\x1bone",
        "Tree image:  not made yet",
    ):
        assert line in lines
    assert not any(line.startswith("Cmd") for line in lines)


def test_an_indexed_image_tells_more(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    layout = write_layout(tmp_path / "image", IMAGE)
    with open_image(layout, Options(store=store)):
        pass
    image, lines = inspected(layout, store)
    assert image.merged
    layers = image.layers
    assert [(layer.indexed, layer.entries, layer.whiteouts) for layer in layers] == [(True, 1, 0), (True, 4, 2)]
    assert layers[1].uncompressed == len(UPPER.tar)
    assert lines[-1].endswith("entries 4, whiteouts 2")
    assert "Tree image:  in the cache" in lines


def test_images_that_name_the_layers_by_other_algorithms_share_the_tree(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    with open_image(write_layout(tmp_path / "image", IMAGE), Options(store=store)):
        pass
    layers = tuple(Layer(each.tar, each.compression, digest(each.tar, "sha512")) for each in IMAGE.layers)
    layout = write_layout(tmp_path / "sha512", Image(layers))
    with open_image(layout, Options(store=store)):
        pass
    assert inspected(layout, store)[0].merged
    assert [entry.kind for entry in store.entries()].count("tree4") == 1


def test_an_image_without_layers_has_nothing_in_the_cache(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    layout = write_layout(tmp_path / "image", Image(()))
    with open_image(layout, Options(store=store)):
        pass
    assert not inspected(layout, store)[0].merged
    assert store.entries() == []


def test_all_images_of_a_layout(tmp_path: Path) -> None:
    files = layout_files()
    platforms: list[Json] = [{"os": "linux", "architecture": name} for name in ("s390x", "riscv64")]
    many = add_index(files, [add_image(files, Image(tag=None, platform=platform)) for platform in platforms], "many")
    one = add_image(files, Image(tag="o\x1bne"))
    bad = add_image(files, Image((Layer(descriptor={"mediaType": "application/x-unknown"}),), tag="bad"))
    bare = add_image(files, Image(tag=None, config={"author": "x"}))
    files["index.json"] = to_json(index_of([many, one, bad, bare]))
    source = open_source(parse_reference(str(write_directory(tmp_path / "image", files))))
    images = list(list_images(source))
    source.close()
    assert [(image.position, image.names, image.platform) for image in images] == [
        (0, ["many"], "linux/s390x"),
        (0, ["many"], "linux/riscv64"),
        (1, ["o\x1bne"], "linux/amd64"),
        (2, ["bad"], None),
        (3, [], "linux/amd64"),
    ]
    assert images[0].size == len(Layer().blob)
    assert "application/x-unknown" in (images[3].error or "")
    lines = list(image_lines(images))
    assert [line.split()[0] for line in lines] == ["NAME", "many", "many", r"o\x1bne", "bad", "@3", "bad:"]
    assert len(set(map(len, lines[:-1]))) == 1
    assert lines[-1] == f"bad: {images[3].error}"


def listed(path: Path) -> tuple[list[ListedImage], list[str]]:
    """Return what `inspect --all` shows of a source."""
    source = open_source(parse_reference(str(path)))
    images = list(list_images(source))
    source.close()
    return images, list(image_lines(images))


def test_images_are_listed_by_their_full_names(tmp_path: Path) -> None:
    def named(full: str) -> Image:
        return Image(tag="latest", descriptor={"annotations": {"io.containerd.image.name": full, REF_NAME: "latest"}})

    files = layout_files(named("docker.io/library/one:latest"), named("docker.io/library/two:latest"))
    _, lines = listed(write_directory(tmp_path / "image", files))
    assert [line.split()[0] for line in lines[1:]] == ["docker.io/library/one:latest", "docker.io/library/two:latest"]


def test_all_tags_of_an_image_are_listed(tmp_path: Path) -> None:
    write_docker_archive(tmp_path / "saved.tar", (Image(), ["app:1", "example/app:1", "app:latest"]))
    _, lines = listed(tmp_path / "saved.tar")
    assert lines[1].startswith("example/app:1, app:latest  linux/amd64  ")


SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"


def test_what_is_no_image_is_described(tmp_path: Path) -> None:
    files = layout_files(Image(tag="image"))
    (image,) = json.loads(files["index.json"])["manifests"]
    artifact = image | {"artifactType": "application/spdx", "annotations": {REF_NAME: "sbom"}}
    old = image | {"mediaType": SCHEMA_1, "annotations": {REF_NAME: "v1"}}
    files["index.json"] = to_json(index_of([artifact, old, image, add_index(files, [], "none")]))
    images, lines = listed(write_directory(tmp_path / "image", files))
    assert [(image.position, image.names, image.error) for image in images] == [
        (0, ["image"], None),
        (1, ["none"], "an image index without images"),
        (2, ["sbom"], "an artifact of the type 'application/spdx', not a container image"),
        (3, ["v1"], "a Docker schema 1 manifest: convert the image with `skopeo copy`"),
    ]
    assert lines[-2:] == [f"{image.names[0]}: {image.error}" for image in images[2:]]


def test_all_images_of_a_docker_archive(tmp_path: Path) -> None:
    other = Image((Layer(tar([file(b"other")])),))
    write_docker_archive(tmp_path / "saved.tar", (Image(), ["a:1", "b:2"]), (other, []))
    source = open_source(parse_reference(str(tmp_path / "saved.tar")))
    images = list(list_images(source))
    source.close()
    assert [(image.names, image.layers) for image in images] == [(["a:1", "b:2"], 1), ([], 1)]
    assert images[0].digest != images[1].digest
