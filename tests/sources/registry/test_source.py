"""Images from a registry: what names them, and blobs in spite of all that goes wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from ocifs.blobs.caching_source import CachingSource
from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, RegistryError, UnsupportedError
from ocifs.sources.reference import parse_reference
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.blob import RemoteBlob
from ocifs.sources.registry.peer import NoRangesError
from ocifs.sources.registry.source import RegistrySource, open_registry
from ocifs.sources.registry.timeouts import Timeouts
from ocifs.sources.resolve import resolve_image
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.images import Image, Json, Layer, add_image, add_index, layout_files, to_json
from tests.registry import (
    HASTY,
    Act,
    Blob,
    Handler,
    Registry,
    cut,
    encoded,
    endless_trailers,
    hang_up,
    other_range,
    running,
    shorter,
    slowly,
    stall,
    status,
    trickled_extension,
    whole,
    wrong_bytes,
)

DATA = bytes(range(256)) * 4096


@pytest.fixture
def registry(registry: Registry) -> Registry:
    registry.add("app", layout_files(Image((Layer(),), tag="1"), Image((Layer(), Layer(compression="zstd")), tag="2")))
    registry.blobs["app"][str(Digest.of(DATA))] = DATA
    return registry


@contextmanager
def opened(reference: str, access: Access | None = None, timeouts: Timeouts = HASTY) -> Iterator[RegistrySource]:
    source = open_registry(parse_reference(reference), structs.replace(access or Access(), timeouts=timeouts))
    try:
        yield source
    finally:
        source.close()


@pytest.fixture
def timeouts() -> Timeouts:
    """The timeouts of `blob`; tests override them."""
    return HASTY


@pytest.fixture
def blob(registry: Registry, timeouts: Timeouts) -> Iterator[RemoteBlob]:
    with opened(f"docker://{registry.host}/app:1", timeouts=timeouts) as source:
        yield RemoteBlob(source._sessions, f"blobs/{Digest.of(DATA)}", Digest.of(DATA), len(DATA))


# References


def test_tags_and_digests(registry: Registry) -> None:
    for tag, layers in (("1", 1), ("2", 2)):
        with opened(text := f"docker://{registry.host}/app:{tag}") as source:
            image = resolve_image(CachingSource(source, Store(None)), parse_reference(text))
            assert len(image.layers) == layers
            assert image.name == text
        with opened(text := f"docker://{registry.host}/app@{image.digest}") as source:
            assert resolve_image(CachingSource(source, Store(None)), parse_reference(text)).config == image.config


def test_an_index(registry: Registry) -> None:
    files = layout_files()
    platforms: list[Json] = [{"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64"}]
    index = add_index(files, [add_image(files, Image(tag=None, platform=each)) for each in platforms], "multi")
    files["index.json"] = to_json({"schemaVersion": 2, "manifests": [index]})
    registry.add("multi", files)
    reference = parse_reference(f"docker://{registry.host}/multi:multi")
    with opened(reference.text) as source:
        image = resolve_image(CachingSource(source, Store(None)), reference)
        assert CachingSource(source, Store(None)).document(image.descriptor)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("app:3", NotFoundError, r"has no manifest 3 in app \(NAME_UNKNOWN\)"),
        ("other:1", NotFoundError, "has no manifest 1 in other"),
        (f"app@{Digest.of(b'')}", NotFoundError, "has no manifest sha256:e3b0"),
    ],
)
def test_what_is_not_there(registry: Registry, name: str, error: type[OcifsError], message: str) -> None:
    reference = parse_reference(f"docker://{registry.host}/{name}")
    with opened(reference.text) as source, pytest.raises(error, match=message):
        source.resolve(reference)


def test_another_manifest_than_the_digest_says(registry: Registry) -> None:
    registry.fault(lambda handler, blob: handler.answer(200, registry.manifests["app"]["2"].data), "/manifests/")
    digest = Digest.of(registry.manifests["app"]["1"].data)
    reference = parse_reference(f"docker://{registry.host}/app@{digest}")
    with (
        opened(reference.text) as source,
        pytest.raises(InvalidImageError, match="returned another manifest than sha256"),
    ):
        source.resolve(reference)


def test_no_list_of_images(registry: Registry) -> None:
    with opened(f"docker://{registry.host}/app:1") as source, pytest.raises(UnsupportedError, match="ocifs tags"):
        CachingSource(source, Store(None)).images()


def mirrored(alone: Path, mirror: Registry, registry: Registry) -> None:
    conf = alone / ".config/containers/registries.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(
        f'[[registry]]\nlocation = "{registry.host}"\n[[registry.mirror]]\nlocation = "{mirror.host}/copy"\n'
    )


def test_a_mirror_is_asked_first(registry: Registry, alone: Path) -> None:
    with running() as mirror:
        mirrored(alone, mirror, registry)
        mirror.add("copy/app", layout_files(Image(tag="1")))
        reference = parse_reference(f"docker://{registry.host}/app:1")
        with opened(reference.text) as source:
            resolve_image(CachingSource(source, Store(None)), reference)
    assert not registry.requests


@pytest.mark.parametrize("fault", [status(404), status(401), hang_up, status(503)])
def test_what_a_mirror_has_not_the_registry_has(registry: Registry, alone: Path, fault: Act) -> None:
    timeouts = Timeouts(operation=0.05, first_operation=0.05)
    with running() as mirror:
        mirrored(alone, mirror, registry)
        mirror.fault(fault, "/v2/")
        reference = parse_reference(f"docker://{registry.host}/app:1")
        with opened(reference.text, Access(credentials="me:s3cr3t"), timeouts) as source:
            resolve_image(CachingSource(source, Store(None)), reference)
        assert all("authorization" not in request.headers for request in mirror.requests)


def test_a_blob_that_a_mirror_loses_midway(registry: Registry, alone: Path) -> None:
    with running() as mirror:
        mirrored(alone, mirror, registry)
        mirror.add("copy/app", layout_files(Image(tag="1")))
        mirror.blobs["copy/app"][str(Digest.of(DATA))] = DATA
        mirror.fault(cut(1000), times=1)
        mirror.fault(status(404))
        with opened(f"docker://{registry.host}/app:1") as source:
            remote = RemoteBlob(source._sessions, f"blobs/{Digest.of(DATA)}", Digest.of(DATA), len(DATA))
            assert b"".join(remote.stream()) == DATA
    assert registry.sent[-1].range == f"bytes=1000-{len(DATA) - 1}"


# Blobs


def test_pread(blob: RemoteBlob, registry: Registry) -> None:
    assert blob.pread(10, 5) == DATA[5:15]
    assert blob.pread(10, len(DATA) - 4) == DATA[-4:]
    assert blob.pread(10, len(DATA)) == b""
    assert blob.pread(0, 0) == b""
    assert [request.range for request in registry.sent] == ["bytes=5-14", f"bytes={len(DATA) - 4}-{len(DATA) - 1}"]
    assert blob.pread(len(DATA), 0) == DATA
    assert not registry.sent[-1].range


def test_one_connection_does(blob: RemoteBlob, registry: Registry) -> None:
    connections = set()

    def note(handler: Handler, found: Blob) -> None:
        connections.add(handler.connection)
        handler.serve(found)

    registry.fault(note)
    for offset in range(20):
        blob.pread(1000, offset * 1000)
    assert len(connections) == 1


@pytest.mark.parametrize(
    "fault",
    [
        hang_up,
        cut(0),
        cut(10),
        status(429),
        status(503),
        other_range,
        encoded,
        lambda handler, data: handler.answer(206, data.data[5:15]),
        lambda handler, data: handler.answer(206, data.data[5:15], {"Content-Range": "bytes 5-14"}),
        lambda handler, data: handler.answer(206, data.data[5:14], {"Content-Range": f"bytes 5-14/{len(DATA)}"}),
        lambda handler, data: handler.answer(206, data.data[5:2000], {"Content-Range": f"bytes 5-1004/{len(DATA)}"}),
        lambda handler, data: handler.answer(206, b"--x", {"Content-Type": "multipart/byteranges; boundary=x"}),
    ],
)
def test_what_goes_wrong_once(blob: RemoteBlob, registry: Registry, fault: Act) -> None:
    registry.fault(fault, times=1)
    assert blob.pread(1000, 5) == DATA[5:1005]
    assert len(registry.sent) == 2


def test_a_cut_is_resumed_where_it_was(blob: RemoteBlob, registry: Registry) -> None:
    registry.fault(cut(1000), times=2)
    assert blob.pread(5000, 100) == DATA[100:5100]
    assert [request.range for request in registry.sent] == ["bytes=100-5099", "bytes=1100-5099", "bytes=2100-5099"]


def test_a_stream_is_resumed_where_it_was(blob: RemoteBlob, registry: Registry) -> None:
    registry.fault(cut(300_000), times=3)
    assert b"".join(blob.stream()) == DATA
    last = len(DATA) - 1
    assert [request.range for request in registry.sent] == [
        "",
        f"bytes=300000-{last}",
        f"bytes=600000-{last}",
        f"bytes=900000-{last}",
    ]


@pytest.mark.parametrize("timeouts", [Timeouts(operation=0.5, first_operation=0.5, pause=0.02)])
def test_a_stream_may_be_cut_any_number_of_times_if_it_keeps_its_pace(blob: RemoteBlob, registry: Registry) -> None:
    registry.fault(cut(20_000))  # the pauses alone take longer than one operation
    assert b"".join(blob.stream()) == DATA


@pytest.mark.parametrize("timeouts", [Timeouts(operation=0.3, first_operation=0.3, pause=0.01)])
def test_a_stream_with_a_byte_in_each_response_ends(blob: RemoteBlob, registry: Registry) -> None:
    registry.fault(cut(1))
    received = bytearray()

    def read() -> None:
        for piece in blob.stream():
            received.extend(piece)
            assert len(received) < 100

    with pytest.raises(RegistryError):
        read()
    assert DATA.startswith(received)


def test_a_stream_takes_a_whole_blob_for_its_rest(blob: RemoteBlob, registry: Registry) -> None:
    registry.fault(cut(300_000), times=1)
    registry.fault(whole, times=1)
    assert b"".join(blob.stream()) == DATA


def test_a_read_does_not(blob: RemoteBlob, registry: Registry) -> None:
    registry.fault(whole)
    with pytest.raises(NoRangesError, match="does not support range requests"):
        blob.pread(10, 5)
    assert blob.pread(10, 0) == DATA[:10]  # that the whole blob begins with


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (status(404), NotFoundError, r"has no blob sha256:\w+ \(SCRIPTED\)"),
        (status(416), InvalidImageError, "shorter than its descriptor says"),
        (shorter, InvalidImageError, "of another size than its descriptor says"),
    ],
)
@pytest.mark.parametrize("offset", [0, 5])
def test_what_does_not_pass(
    blob: RemoteBlob, registry: Registry, fault: Act, error: type[OcifsError], message: str, offset: int
) -> None:
    registry.fault(fault)
    with pytest.raises(error, match=message):
        blob.pread(len(DATA) - offset, offset)
    assert len(registry.sent) == 1


@pytest.mark.parametrize("fault", [hang_up, cut(0), status(503), other_range, encoded])
@pytest.mark.parametrize("timeouts", [Timeouts(operation=0.3, first_operation=0.3, pause=0.01)])
def test_a_read_ends_in_time_and_the_next_one_tries_again(blob: RemoteBlob, registry: Registry, fault: Act) -> None:
    registry.fault(fault)
    with pytest.raises(RegistryError):
        blob.pread(10, 5)
    assert 0 < len(registry.sent) < 20
    registry.faults.clear()
    assert blob.pread(10, 5) == DATA[5:15]


@pytest.mark.parametrize("timeouts", [Timeouts(rate=0.2, pause=0.01)])
def test_a_slow_server_is_left(blob: RemoteBlob, registry: Registry) -> None:
    registry.fault(slowly(100), times=1)
    assert blob.pread(1000, 5) == DATA[5:1005]
    first, second = registry.sent
    assert first.range == "bytes=5-1004"
    assert 5 < int(second.range[6:].partition("-")[0]) < 200


@pytest.mark.parametrize("timeouts", [Timeouts(answer=0.2, pause=0.01)])
def test_a_stalled_server_is_left(blob: RemoteBlob, registry: Registry) -> None:
    registry.fault(stall, times=1)
    assert blob.pread(1000, 5) == DATA[5:1005]


@pytest.mark.parametrize("timeouts", [Timeouts(answer=0.2, pause=0.01)])
@pytest.mark.parametrize("fault", [endless_trailers, trickled_extension])
def test_an_answer_without_an_end_is_left(blob: RemoteBlob, registry: Registry, fault: Act) -> None:
    registry.fault(fault, times=1)
    assert b"".join(blob.stream()) == DATA
    assert len(registry.sent) == 2


def test_wrong_bytes_are_for_the_reader_to_notice(blob: RemoteBlob, registry: Registry) -> None:
    registry.fault(wrong_bytes, times=1)
    assert blob.pread(10, 5) != DATA[5:15]
