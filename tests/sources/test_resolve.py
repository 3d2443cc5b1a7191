import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, LimitError, NotFoundError, OcifsError, UnsupportedError
from ocifs.sources.reference import parse_reference
from ocifs.sources.resolve import ResolvedImage, open_source, resolve_image
from ocifs.spec.platform import Platform
from tests.images import (
    CONFIG,
    INDEX,
    LAYOUT_VERSION,
    MANIFEST,
    REF_NAME,
    Files,
    Image,
    Json,
    Layer,
    add_image,
    add_index,
    blob_path,
    digest,
    docker_files,
    index_of,
    layout_files,
    tar,
    to_json,
    write_archive,
    write_directory,
    write_docker_archive,
    write_layout,
    write_oci_archive,
)

AMD64: Json = {"os": "linux", "architecture": "amd64"}
ARM64: Json = {"os": "linux", "architecture": "arm64", "variant": "v8"}
S390X: Json = {"os": "linux", "architecture": "s390x"}
UNKNOWN: Json = {"os": "unknown", "architecture": "unknown"}
DOCKER = "application/vnd.docker."


def resolve(text: str, platform: str | None = None) -> ResolvedImage:
    reference = parse_reference(text)
    with closing(open_source(reference)) as source:
        image = resolve_image(source, reference, Platform.parse(platform) if platform else None)
        for layer in image.layers:
            blob = source.open(layer.descriptor)
            assert digest(blob.pread(blob.size, 0), layer.descriptor.digest.algorithm) == layer.descriptor.digest
        return image


def descriptors() -> set[str]:
    """Return the open file descriptors."""
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("compression", ["tar", "gzip", "zstd"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("embedded", [False, True])
def test_an_image(tmp_path: Path, compression: str, algorithm: str, embedded: bool) -> None:
    layer = Layer(compression=compression, embedded=embedded)  # type: ignore[arg-type]
    write_layout(tmp_path / "x", Image((layer, layer), algorithm=algorithm))
    image = resolve(f"{tmp_path}/x")
    assert image.name == f"{tmp_path}/x"
    assert image.digest.algorithm == algorithm
    assert image.digest == image.descriptor.digest
    assert image.config.platform == Platform("linux", "amd64")
    assert [each.diff_id for each in image.layers] == [digest(layer.tar)] * 2
    assert [each.compression for each in image.layers] == [compression] * 2
    assert [each.descriptor for each in image.layers] == list(image.manifest.layers)


def test_no_layers(tmp_path: Path) -> None:
    write_layout(tmp_path / "x", Image(()))
    assert resolve(f"{tmp_path}/x").layers == ()


def docker_media_types(files: Files) -> Files:
    """Return the layout of one image with Docker's media types."""
    (item,) = json.loads(files["index.json"])["manifests"]
    text = files[blob_path(item["digest"])].decode()
    text = text.replace(MANIFEST, f"{DOCKER}distribution.manifest.v2+json")
    text = text.replace(CONFIG, f"{DOCKER}container.image.v1+json")
    manifest = text.replace("application/vnd.oci.image.layer.v1.tar+", f"{DOCKER}image.rootfs.diff.tar.").encode()
    described = {"mediaType": f"{DOCKER}distribution.manifest.v2+json", "digest": digest(manifest)}
    listed = to_json(
        {
            "schemaVersion": 2,
            "mediaType": f"{DOCKER}distribution.manifest.list.v2+json",
            "manifests": [described | {"size": len(manifest), "platform": AMD64}],
        }
    )
    index = {"mediaType": f"{DOCKER}distribution.manifest.list.v2+json", "digest": digest(listed)}
    return files | {
        blob_path(digest(manifest)): manifest,
        blob_path(digest(listed)): listed,
        "index.json": to_json(index_of([index | {"size": len(listed)}])),
    }


def test_docker_schema_2(tmp_path: Path) -> None:
    write_directory(tmp_path, docker_media_types(layout_files(Image())))
    image = resolve(str(tmp_path), "linux/amd64")
    assert image.manifest.media_type == f"{DOCKER}distribution.manifest.v2+json"
    assert image.layers[0].compression == "gzip"


def test_transports_and_content(tmp_path: Path) -> None:
    layer = Layer(compression="tar")
    write_layout(tmp_path / "dir", Image((layer,)))
    write_oci_archive(tmp_path / "oci.tar", Image((layer,)))
    write_docker_archive(tmp_path / "docker.tar", (Image((layer,)), ["example/app:latest"]))
    write_archive(tmp_path / "both.tar", layout_files(Image((layer,))) | docker_files((Image((layer,)), [])))
    oci = resolve(f"oci:{tmp_path}/dir:latest").digest
    docker = resolve(f"docker-archive:{tmp_path}/docker.tar:app:latest").digest
    assert oci != docker
    assert resolve(f"{tmp_path}/dir").digest == oci
    assert resolve(f"{tmp_path}/dir@{oci}").digest == oci
    assert resolve(f"{tmp_path}/oci.tar:latest").digest == oci
    assert resolve(f"oci-archive:{tmp_path}/oci.tar").digest == oci
    assert resolve(f"{tmp_path}/docker.tar:@0").digest == docker
    assert resolve(f"{tmp_path}/both.tar").digest == oci
    assert resolve(f"oci-archive:{tmp_path}/both.tar").digest == oci
    assert resolve(f"docker-archive:{tmp_path}/both.tar").digest == docker


@pytest.mark.parametrize(
    "manifests",
    [
        None,
        [],
        [{"mediaType": "text/plain", "digest": digest(b"x"), "size": 1}],
        [{"mediaType": MANIFEST, "digest": digest(b"not there"), "size": 1, "annotations": {REF_NAME: "other"}}],
        [{"mediaType": MANIFEST, "digest": digest(b"x"), "size": 1, "artifactType": "a"}],
    ],
)
def test_the_layout_of_docker_25_may_list_nothing(tmp_path: Path, manifests: list[Json] | None) -> None:
    saved = docker_files((Image((Layer(compression="tar"),)), ["app:1"]))
    index = to_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
    write_archive(tmp_path / "x.tar", saved | {"oci-layout": LAYOUT_VERSION, "index.json": index})
    expected = resolve(f"docker-archive:{tmp_path}/x.tar").digest
    assert resolve(f"{tmp_path}/x.tar").digest == resolve(f"{tmp_path}/x.tar:app:1").digest == expected
    with pytest.raises((NotFoundError, UnsupportedError)):
        resolve(f"oci-archive:{tmp_path}/x.tar")


def test_a_layout_of_docker_25_without_layers_points_to_the_archive(tmp_path: Path) -> None:
    saved = docker_files((Image((Layer(compression="tar"),)), ["app:1"]))
    layout = layout_files(Image((Layer(compression="tar"),), manifest={"layers": []}))
    write_archive(tmp_path / "x.tar", saved | layout)
    with pytest.raises(InvalidImageError, match=f"1 diff ID for 0 layers: .* docker-archive:{tmp_path}/x.tar$"):
        resolve(f"{tmp_path}/x.tar")
    assert resolve(f"docker-archive:{tmp_path}/x.tar").layers
    write_archive(tmp_path / "y.tar", layout)
    with pytest.raises(InvalidImageError, match=r"1 diff ID for 0 layers$"):
        resolve(f"{tmp_path}/y.tar")


@pytest.mark.parametrize("media_type", ["application/octet-stream", f"{DOCKER}container.image.v1+json"])
def test_configs_of_other_media_types(tmp_path: Path, media_type: str) -> None:
    files = layout_files(Image())
    (item,) = json.loads(files["index.json"])["manifests"]
    manifest = files[blob_path(item["digest"])].replace(CONFIG.encode(), media_type.encode())
    item |= {"digest": digest(manifest), "size": len(manifest)}
    write_directory(tmp_path, files | {blob_path(item["digest"]): manifest, "index.json": to_json(index_of([item]))})
    assert resolve(str(tmp_path)).config.os == "linux"


@pytest.mark.parametrize(
    ("prefix", "file", "error", "message"),
    [
        ("", "other.tar", InvalidImageError, "not written by `docker save`"),
        ("oci-archive:", "docker.tar", InvalidImageError, "not an OCI layout"),
        ("docker-archive:", "oci.tar", InvalidImageError, "not written by"),
        ("oci:", "oci.tar", NotFoundError, "Not a directory"),
        ("oci-archive:", "", UnsupportedError, "not a regular file"),
        ("", "", InvalidImageError, "not an OCI layout"),
    ],
)
def test_the_wrong_transport(tmp_path: Path, prefix: str, file: str, error: type[OcifsError], message: str) -> None:
    write_oci_archive(tmp_path / "oci.tar", Image())
    write_docker_archive(tmp_path / "docker.tar", (Image(), []))
    write_archive(tmp_path / "other.tar", {"x": b"y"})
    before = descriptors()
    with pytest.raises(error, match=message):
        resolve(f"{prefix}{tmp_path}/{file}")
    assert descriptors() == before


def index_files(*platforms: Json | None, nested: int = 1, single: bool = False) -> tuple[Files, list[str]]:
    """Return a layout of one index, nested some levels deep, and the digests of its manifests."""
    files: Files = {"oci-layout": LAYOUT_VERSION}
    items = [
        add_image(files, Image((Layer(tar({str(i): b""})),), tag=None, platform=platform))
        for i, platform in enumerate(platforms)
    ]
    entries = items
    for _ in range(nested):
        entries = [add_index(files, entries)]
    files["index.json"] = to_json(index_of(entries))
    return files, [str(item["digest"]) for item in items]


@pytest.mark.parametrize("nested", [0, 1, 8])
@pytest.mark.parametrize(
    ("platform", "position"),
    [("linux/amd64", 0), ("linux/x86_64", 0), ("linux/arm64", 1), ("linux/arm64/v8", 1), ("linux/s390x", 2)],
)
def test_platforms(tmp_path: Path, nested: int, platform: str, position: int) -> None:
    files, digests = index_files(AMD64, ARM64, S390X, nested=nested)
    write_directory(tmp_path, files)
    assert resolve(str(tmp_path), platform).digest == digests[position]


@pytest.mark.parametrize("machines", [("x86_64", "aarch64"), ("aarch64", "x86_64")])
def test_the_default_platform_is_the_machine(tmp_path: Path, machines: tuple[str, ...]) -> None:
    files, digests = index_files(*({"x86_64": AMD64, "aarch64": ARM64}[machine] for machine in machines))
    write_directory(tmp_path, files)
    if os.uname().machine not in machines:
        pytest.skip("the image is for other machines")
    assert resolve(str(tmp_path)).digest == digests[machines.index(os.uname().machine)]


def test_attestations_are_no_images(tmp_path: Path) -> None:
    files, digests = index_files(None, UNKNOWN)
    write_directory(tmp_path, files)
    assert resolve(str(tmp_path)).digest == digests[0]


@pytest.mark.parametrize(
    ("platforms", "platform", "message"),
    [
        (
            (AMD64, ARM64),
            "linux/riscv64",
            r"--platform, or a digest, from linux/amd64 \(sha256:[0-9a-f]*\), linux/arm64/v8 \(sha256:[0-9a-f]*\)$",
        ),
        ((ARM64, ARM64), "linux/amd64", r"no image for linux/amd64: .* linux/arm64/v8 \(sha256:[0-9a-f]*\)$"),
        ((AMD64,), "linux/arm64", r"no image for linux/arm64: .* from linux/amd64 \("),
        (
            (None, None),
            "linux/arm64",
            r"no image for linux/arm64: .* from linux/amd64 \(sha256:[0-9a-f]*\), linux/amd64 \(",
        ),
        ((UNKNOWN,), "linux/amd64", "lists no image"),
        ((), "linux/amd64", "lists no image"),
        ((None,), "linux/arm64", "is for linux/amd64 only, not for linux/arm64"),
        (({"os": "linux\x1b", "architecture": "x"},), "linux/amd64", r"linux\\x1b/x"),
    ],
)
def test_no_such_platform(tmp_path: Path, platforms: tuple[Json | None, ...], platform: str, message: str) -> None:
    write_directory(tmp_path, index_files(*platforms)[0])
    with pytest.raises(NotFoundError, match=message) as caught:
        resolve(str(tmp_path), platform)
    assert str(caught.value).isprintable()


def configured(*platforms: Json, stated: bool = False, nested: bool = True) -> tuple[Files, list[str]]:
    """Return a layout of images of which the configs say the platforms, and the index too if it is `stated`."""
    files: Files = {"oci-layout": LAYOUT_VERSION}
    items = [
        add_image(files, Image((Layer(tar({str(i): b""})),), tag=None, config=platform, platform=platform or None))
        for i, platform in enumerate(platforms)
    ]
    listed = [item if stated else {k: v for k, v in item.items() if k != "platform"} for item in items]
    files["index.json"] = to_json(index_of([add_index(files, listed)] if nested else listed))
    return files, [str(item["digest"]) for item in items]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("platform", "position"), [("linux/amd64", 0), ("linux/arm64", 1), ("linux/s390x", 2)])
def test_where_an_index_states_no_platform_the_configs_do(
    tmp_path: Path, platform: str, position: int, nested: bool
) -> None:
    files, digests = configured(AMD64, ARM64, S390X, nested=nested)
    write_directory(tmp_path, files)
    image = resolve(str(tmp_path), platform)
    assert (image.digest, str(image.config.platform)[: len(platform)]) == (digests[position], platform)


def test_no_config_is_read_if_the_index_states_the_platform(tmp_path: Path) -> None:
    files, digests = configured(ARM64, AMD64, stated=True)
    (index,) = json.loads(files["index.json"])["manifests"]
    manifests = json.loads(files[blob_path(index["digest"])])["manifests"]
    missing = {"mediaType": MANIFEST, "digest": digest(b"missing"), "size": 5}
    files["index.json"] = to_json(index_of([add_index(files, [missing, *manifests])]))
    write_directory(tmp_path, files)
    assert resolve(str(tmp_path), "linux/amd64").digest == digests[1]


@pytest.mark.parametrize(
    ("platforms", "message"),
    [
        ((ARM64, S390X), r"from linux/arm64/v8 \(DIGEST0\), linux/s390x \(DIGEST1\)$"),
        ((ARM64, {"os": "", "architecture": ""}), r"from linux/arm64/v8 \(DIGEST0\), unknown/unknown \(DIGEST1\)$"),
        ((S390X, {"os": "linux\x1b", "architecture": "x"}), r"linux\\x1b/x \(DIGEST1\)$"),
    ],
)
def test_choices_have_digests(tmp_path: Path, platforms: tuple[Json, ...], message: str) -> None:
    files, digests = configured(*platforms)
    write_directory(tmp_path, files)
    for number, each in enumerate(digests):
        message = message.replace(f"DIGEST{number}", each)
    with pytest.raises(NotFoundError, match=f"has no image for linux/riscv64: .*{message}") as caught:
        resolve(str(tmp_path), "linux/riscv64")
    assert str(caught.value).isprintable()
    assert resolve(f"{tmp_path}@{digests[0]}").digest == digests[0]


def test_an_unreadable_config_is_no_choice(tmp_path: Path) -> None:
    files, digests = configured(ARM64, AMD64)
    path = next(path for path, data in files.items() if b"rootfs" in data and b"arm64" in data)
    del files[path]
    write_directory(tmp_path, files)
    assert resolve(str(tmp_path), "linux/amd64").digest == digests[1]
    with pytest.raises(NotFoundError, match=rf"unknown/unknown \({digests[0]}\), linux/amd64"):
        resolve(str(tmp_path), "linux/arm64")


def test_few_configs_are_read(tmp_path: Path) -> None:
    platforms: list[Json] = [{"os": "linux", "architecture": f"a{n}"} for n in range(66)]
    files, digests = configured(*platforms)
    write_directory(tmp_path, files)
    assert resolve(str(tmp_path), "linux/a63").digest == digests[63]
    with pytest.raises(LimitError, match="lists 66 manifests without a platform: name one by its digest"):
        resolve(str(tmp_path), "linux/a64")


def test_an_index_that_holds_only_another_platform_is_refused(tmp_path: Path) -> None:
    """Other than an image that its reference names without an index between."""
    write_directory(tmp_path / "stated", configured({"os": "plan9", "architecture": "mips"}, stated=True)[0])
    with pytest.raises(NotFoundError, match=r"has no image for linux/.*: .* from plan9/mips \(sha256:"):
        resolve(f"{tmp_path}/stated")
    write_layout(tmp_path / "named", Image(platform={"os": "plan9", "architecture": "mips"}))
    assert resolve(f"{tmp_path}/named").config.os == "plan9"


def test_a_platform_that_the_only_image_is_not_for(tmp_path: Path) -> None:
    write_layout(tmp_path, Image(platform=S390X))
    assert resolve(str(tmp_path)).config.architecture == "s390x"
    with pytest.raises(NotFoundError, match="is for linux/s390x only, not for linux/amd64"):
        resolve(str(tmp_path), "linux/amd64")


def test_indexes_nested_too_deeply(tmp_path: Path) -> None:
    write_directory(tmp_path, index_files(AMD64, nested=9)[0])
    with pytest.raises(LimitError, match="nest more than 8"):
        resolve(str(tmp_path), "linux/amd64")


def test_too_many_indexes(tmp_path: Path) -> None:
    files: Files = {"oci-layout": LAYOUT_VERSION}
    indexes = [add_index(files, [{"mediaType": MANIFEST, "digest": digest(bytes([i])), "size": 1}]) for i in range(70)]
    files["index.json"] = to_json(index_of([add_index(files, indexes)]))
    write_directory(tmp_path, files)
    with pytest.raises(LimitError, match="limit indexes=64"):
        resolve(str(tmp_path), "linux/amd64")


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    name = digest(b"itself")
    loop = to_json(index_of([{"mediaType": INDEX, "digest": name, "size": 0}]))
    size = len(loop) + len(str(len(loop))) - 1
    loop = to_json(index_of([{"mediaType": INDEX, "digest": name, "size": size}]))
    files = {"oci-layout": LAYOUT_VERSION, "index.json": loop, blob_path(name): loop}
    write_directory(tmp_path, files)
    with pytest.raises(InvalidImageError, match=f"blob {name} is damaged"):
        resolve(str(tmp_path))


def test_an_index_seen_twice_is_read_once(tmp_path: Path) -> None:
    files, digests = index_files(AMD64, ARM64)
    (item,) = json.loads(files["index.json"])["manifests"]
    files["index.json"] = to_json(index_of([add_index(files, [item] * 1000)]))
    write_directory(tmp_path, files)
    assert resolve(str(tmp_path), "linux/arm64").digest == digests[1]


ENCRYPTED: Json = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"}


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (Image(descriptor={"size": 5}), InvalidImageError, "its descriptor says 5"),
        (Image(descriptor={"size": 5 << 20}), LimitError, "over the limit document=4MiB"),
        (Image(descriptor={"digest": digest(b"x")}), NotFoundError, f"cannot read blob {digest(b'x')}"),
        (Image(manifest={"mediaType": INDEX}), InvalidImageError, "members of the other kind"),
        (Image(manifest={"config": {"mediaType": CONFIG, "digest": digest(b"x"), "size": 1}}), NotFoundError, "blob"),
        (
            Image(manifest={"config": {"mediaType": "application/x", "digest": digest(b"x"), "size": 1}}),
            UnsupportedError,
            "not a container image: its config is 'application/x'",
        ),
        (
            Image(
                manifest={
                    "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
                    "artifactType": "application/x",
                }
            ),
            UnsupportedError,
            "is an artifact of the type 'application/x', not a container image",
        ),
        (Image(manifest={"layers": []}), InvalidImageError, "1 diff ID for 0 layers"),
        (Image(config={"rootfs": {"type": "layers", "diff_ids": []}}), InvalidImageError, "0 diff IDs for 1 layer"),
        (Image(config={"rootfs": {"type": "x", "diff_ids": []}}), InvalidImageError, "config sha256:.*rootfs.type"),
        (Image((Layer(),) * 501), LimitError, "501 layers"),
        (Image((Layer(descriptor=ENCRYPTED),)), UnsupportedError, "layer sha256:.* is encrypted"),
        (Image((Layer(descriptor={"mediaType": "x"}),)), UnsupportedError, "layer sha256:.* unsupported media type"),
        (Image((Layer(descriptor={"size": 3}),)), InvalidImageError, "its descriptor says 3"),
        (Image((Layer(descriptor={"digest": digest(b"x")}),)), NotFoundError, f"cannot read blob {digest(b'x')}"),
        (Image((Layer(embedded=True, descriptor={"data": "eA=="}),)), InvalidImageError, "embedded"),
    ],
)
@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_bad_images(tmp_path: Path, kind: str, image: Image, error: type[OcifsError], message: str) -> None:
    write = write_layout if kind == "directory" else write_oci_archive
    write(tmp_path / "x", image)
    before = descriptors()
    with pytest.raises(error, match=message) as caught:
        resolve(f"{tmp_path}/x")
    assert str(caught.value).isprintable()
    assert descriptors() == before


@pytest.mark.parametrize("document", ["manifest", "config"])
def test_a_changed_document_is_damaged(tmp_path: Path, document: str) -> None:
    files = layout_files(Image())
    mark = b'"layers":' if document == "manifest" else b'"rootfs"'
    path = next(path for path, data in files.items() if path.startswith("blobs/") and mark in data)
    files[path] = files[path].replace(b"{", b" ", 1)
    write_directory(tmp_path, files)
    with pytest.raises(InvalidImageError, match=f"blob sha256:{path[-64:]} is damaged: .*digest sha256:"):
        resolve(str(tmp_path))


def test_all_files_are_closed(tmp_path: Path) -> None:
    image = Image((Layer(), Layer(embedded=True), Layer(tar({"x": b"y"}), "zstd")))
    write_layout(tmp_path / "dir", image)
    write_oci_archive(tmp_path / "oci.tar", image)
    write_docker_archive(tmp_path / "docker.tar", (image, ["a"]))
    before = descriptors()
    for name in ("dir", "oci.tar", "docker.tar"):
        resolve(f"{tmp_path}/{name}")
        assert descriptors() == before
