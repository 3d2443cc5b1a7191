"""An image whose published index is false: its container fails, no other starts on it, and it is not trusted again."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct

from ocifs.layer.index import LayerIndex, open_index
from ocifs.layer.index_format import encode_tail
from ocifs.mount.record import list_mounts
from ocifs.options import Options
from ocifs.reader import BytesReader
from ocifs.service.notify import IMAGE, MESSAGE_ID, MOUNT
from ocifs.snapshotter.cri_pb2 import PublishRequest
from ocifs.snapshotter.refutations import REFUTED_ID, TOPIC, Refutations
from ocifs.store import Store
from tests.images import Image, Layer
from tests.registry import Registry
from tests.snapshotter.client import Snapshotter, running, status_of
from tests.snapshotter.pulling import Containerd, Published, publish
from tests.tars import file, tar
from tests.waiting import wait_for

BASE = Layer(tar([file(b"base", b"base")]))
TOP = Layer(tar([file(b"one", b"1" * 5000), file(b"two", b"2" * 5000)]))
RIGHT = {"base": b"base", "one": b"1" * 5000, "two": b"2" * 5000}


def lie(index: LayerIndex) -> LayerIndex:
    """Swap the bytes of two files, if there are two; every span is what it is said to be."""
    first, *others = index.toc()
    if not others:
        return index
    (second,) = others
    swapped = [
        msgspec.structs.replace(first, offset=second.offset),
        msgspec.structs.replace(second, offset=first.offset),
    ]
    data = index.file.pread(index.data_size, 0)
    return open_index(BytesReader(data + encode_tail(swapped, index.summary, len(data))))  # type: ignore[arg-type]


@pytest.fixture
def snapshotter(tmp_path: Path, service: None) -> Iterator[Snapshotter]:
    options = Options(store=Store(tmp_path / "cache"))
    settings = {"service": True, "index_up_to": 0, "containerd": tmp_path / "containerd.sock"}
    with running(tmp_path, options, engine="erofs", settings=settings) as snapshotter:
        yield snapshotter


@pytest.fixture
def image(registry: Registry) -> Published:
    return publish(registry, "app", Image((BASE, TOP)), alter=lie)


def read(path: Path) -> dict[str, bytes]:
    return {each: (path / each).read_bytes() for each in sorted(os.listdir(path))}


@contextmanager
def refuted_container(snapshotter: Snapshotter, containerd: Containerd, image: Published) -> Iterator[Path]:
    """Pull an image, and run a container on it until its index is refuted."""
    assert containerd.pull(image) == ["lazy", "lazy"]
    with containerd.container(image.chains[-1]) as path:
        wait_for(lambda: image.chains[-1] in snapshotter.snapshots.images.refuted(), 120)
        yield path


def test_a_running_container_fails_and_no_other_starts(
    snapshotter: Snapshotter, image: Published, tmp_path: Path
) -> None:
    """The next pull is unpacked, in this namespace and in others."""
    containerd = Containerd(snapshotter.client, tmp_path)
    client = snapshotter.client
    with refuted_container(snapshotter, containerd, image) as path:
        with pytest.raises(OSError, match="Input/output error"):
            (path / "one").read_bytes()
        (running_one,) = client.names("kind==active")
        top = containerd.names[image.chains[-1]]
        requests: tuple[Callable[[], object], ...] = (
            lambda: client.mounts(running_one),
            lambda: client.prepare("new", top),
            lambda: client.view("new", top),
        )
        for request in requests:
            with pytest.raises(grpc.RpcError, match="its index has other entries than its tar stream") as caught:
                request()
            assert status_of(caught) == "FAILED_PRECONDITION"
            assert "remove them and the image, and pull it again" in caught.value.details()
        assert client.names("kind==active") == [running_one]
        assert Containerd(client, tmp_path, "other").pull(image) == ["unpacked", "unpacked"]
    containerd.remove_image(image)
    assert containerd.pull(image) == ["unpacked", "unpacked"]
    with containerd.container(image.chains[-1]) as path:
        assert read(path) == RIGHT


def test_an_unmounted_image_returns_with_an_index_of_its_layers(
    snapshotter: Snapshotter, image: Published, tmp_path: Path
) -> None:
    """Its layers are here by then. The published index is not used again, although it is still there."""
    containerd = Containerd(snapshotter.client, tmp_path)
    with refuted_container(snapshotter, containerd, image):
        pass
    with containerd.container(image.chains[-1]) as path:
        assert read(path) == RIGHT
        (mount,) = [each for each in list_mounts() if each.mountpoint.startswith(str(snapshotter.root))]
        assert mount.layers[-1].index is None
    store = snapshotter.settings.options.store
    snapshotter.snapshots.images.unmount_unused(idle=0.001)
    containerd.remove_image(image)
    store.prune(1)  # even if all that can be made again is evicted
    assert containerd.pull(image) == ["unpacked", "unpacked"]
    assert [entry.kind for entry in store.entries()].count("refuted1") == 1


class _Events(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """containerd's service of events."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, PublishRequest]] = []
        self.refuses = False

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        assert details.method == "/containerd.services.events.v1.Events/Publish"

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            (namespace,) = [each.value for each in context.invocation_metadata() if each.key == "containerd-namespace"]
            self.taken.append((namespace, PublishRequest.FromString(request)))
            if self.refuses:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such\ntopic")
            return b""

        return grpc.unary_unary_rpc_method_handler(handle, bytes, bytes)


def test_the_operator_learns_of_it_once(
    snapshotter: Snapshotter, image: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a line with fields of the journal, a metric, and an event in each namespace that has a container on it."""
    events = _Events()
    counted: list[int] = []
    snapshots = snapshotter.snapshots

    def refutations() -> Refutations:
        socket = snapshotter.settings.containerd
        return Refutations(snapshots.images, snapshots.metadata, socket, lambda: counted.append(1))

    with ExitStack() as stack:
        one, two = (Containerd(snapshotter.client, tmp_path, name) for name in ("one", "two"))
        stack.enter_context(_prepared(two, image))
        stack.enter_context(refuted_container(snapshotter, one, image))
        refutations().report()  # without containerd: the line only
        server = grpc.server(ThreadPoolExecutor(1), handlers=[events])
        server.add_insecure_port(f"unix:{snapshotter.settings.containerd}")
        server.start()
        stack.callback(lambda: server.stop(0).wait())
        caplog.clear()
        reported = refutations()
        for _ in range(2):
            reported.report()
        assert [namespace for namespace, _ in events.taken] == ["one", "two"]
        assert [event.topic for _, event in events.taken] == [TOPIC] * 2
        event = events.taken[0][1].event
        assert event.type_url == "google.protobuf.Struct"
        value = Struct.FromString(event.value)
        mountpoint = str(snapshots.images.mountpoint(image.chains[-1]))
        assert {**value, "reason": ""} == {
            "image": f"docker://{image.registry.host}/app@{image.manifest}",
            "manifest": image.manifest,
            "chain": image.chains[-1],
            "mountpoint": mountpoint,
            "reason": "",
        }
        (record,) = caplog.records
        assert (getattr(record, MOUNT), getattr(record, MESSAGE_ID)) == (mountpoint, REFUTED_ID)
        assert getattr(record, IMAGE) == value["image"]
        assert str(value["reason"]) in record.getMessage()
        assert counted == [1, 1]
        events.refuses = True
        refutations().report()
        assert r"containerd takes no event in its namespace one: INVALID_ARGUMENT: no such\ntopic" in caplog.messages


@contextmanager
def _prepared(containerd: Containerd, image: Published) -> Iterator[None]:
    """Pull an image, and prepare a container."""
    containerd.pull(image)
    containerd.client.prepare(containerd.key("container"), containerd.names[image.chains[-1]])
    yield
