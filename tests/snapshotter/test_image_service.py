"""CRI's image service in front of containerd's: all passes through it, and credentials of pulls stay for a while."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from ocifs.errors import MountError
from ocifs.pool import Pool
from ocifs.snapshotter.cri_pb2 import AuthConfig, ImageSpec, PullImageRequest
from ocifs.snapshotter.image_service import ImageService, make_image_server
from ocifs.snapshotter.keychain import Keychain
from ocifs.snapshotter.serving import listening_at
from ocifs.sources.reference import parse_reference
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.peer import Credentials
from tests.shortage import no_threads

ME = Credentials("me", "secret")
V1, V1ALPHA2 = "/runtime.v1.ImageService", "/runtime.v1alpha2.ImageService"


@dataclass
class Containerd(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """An image service with the answers of a test, which notes the requests."""

    keychain: Keychain
    asked: list[tuple[str, bytes, dict[str, str], float | None]] = field(default_factory=list)
    during: list[Credentials | None] = field(default_factory=list)
    """What the keychain had while each request ran."""
    act: Callable[[grpc.ServicerContext], bytes] = lambda context: b"answer"

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = {each.key: each.value for each in context.invocation_metadata()}
            self.asked.append((details.method, request, metadata, context.time_remaining()))
            self.during.append(kept(self.keychain))
            return self.act(context)

        return grpc.unary_unary_rpc_method_handler(handle, bytes, bytes)


@dataclass
class World:
    containerd: Containerd
    keychain: Keychain
    channel: grpc.Channel
    server: grpc.Server

    def call(self, method: str, request: bytes = b"", **options: object) -> bytes:
        answer: bytes = self.channel.unary_unary(method, bytes, bytes)(request, **{"timeout": 30, **options})
        return answer

    def pull(self, image: str = "host/app:1", auth: AuthConfig | None = None, version: str = V1) -> None:
        request = PullImageRequest(image=ImageSpec(image=image), auth=auth).SerializeToString()
        self.call(f"{version}/PullImage", request)


def kept(keychain: Keychain) -> Credentials | None:
    return keychain.access(parse_reference("docker://host/app")).provided


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    keychain = Keychain(Access())
    containerd = Containerd(keychain)
    service = ImageService(f"unix:{tmp_path}/containerd.sock", keychain)
    with Pool(8, waits=True) as threads:  # with other pools, a refused thread ends the server, and its `stop` waits
        threads.start()
        server = grpc.server(threads, handlers=[containerd])
        server.add_insecure_port(f"unix:{tmp_path}/containerd.sock")
        server.start()
        with (
            closing(service),
            listening_at(tmp_path / "run/cri.sock", make_image_server(service)),
            grpc.insecure_channel(f"unix:{tmp_path}/run/cri.sock") as channel,
        ):
            yield World(containerd, keychain, channel, server)
        assert server.stop(0).wait(30)


@pytest.mark.parametrize("service", [V1, V1ALPHA2])
@pytest.mark.parametrize("method", ["ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo", "New"])
def test_all_passes_unchanged(world: World, service: str, method: str) -> None:
    request = b"\x0a\x03\x0a\x01x\xfa\x3e\x02hi"  # an image, and a field that ocifs does not know
    assert world.call(f"{service}/{method}", request, metadata=[("trace", "me")], timeout=5) == b"answer"
    ((asked, received, metadata, remaining),) = world.containerd.asked
    assert (asked, received, metadata["trace"]) == (f"{service}/{method}", request, "me")
    assert remaining is not None
    assert remaining < 6


def test_other_services_are_not_forwarded(world: World) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        world.call("/runtime.v1.RuntimeService/Version")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert world.containerd.asked == []


def test_failures_pass_with_their_details(world: World) -> None:
    def fail(context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata([("grpc-status-details-bin", b"\0\1")])
        context.abort(grpc.StatusCode.NOT_FOUND, "no such image: h\u00f6st")
        raise AssertionError

    world.containerd.act = fail
    with pytest.raises(grpc.RpcError) as failed:
        world.pull()
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such image: h\u00f6st")
    assert ("grpc-status-details-bin", b"\0\1") in [tuple(each) for each in failed.value.trailing_metadata()]


def test_large_answers(world: World) -> None:
    world.containerd.act = lambda context: bytes(8 << 20)
    with pytest.raises(grpc.RpcError, match="larger than max"):
        world.call(f"{V1}/ListImages")  # of this client, whose limit is 4 MiB
    assert len(world.containerd.asked) == 1


def test_without_a_deadline(world: World) -> None:
    world.call(f"{V1}/ListImages", timeout=None)
    remaining = world.containerd.asked[0][3]
    assert remaining is None or remaining > 1e9


def test_a_client_that_gives_up(world: World) -> None:
    """containerd's request is cancelled, too."""
    cancelled = threading.Event()

    def wait(context: grpc.ServicerContext) -> bytes:
        context.add_callback(cancelled.set)
        cancelled.wait(30)
        return b""

    world.containerd.act = wait
    with pytest.raises(grpc.RpcError) as failed:
        world.call(f"{V1}/PullImage", timeout=0.3)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert cancelled.wait(30)


def test_containerd_does_not_run(world: World) -> None:
    world.server.stop(0).wait()
    with pytest.raises(grpc.RpcError) as failed:
        world.call(f"{V1}/ListImages")
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("version", [V1, V1ALPHA2])
def test_credentials_of_a_pull(world: World, version: str) -> None:
    world.pull(auth=AuthConfig(username="me", password="secret"), version=version)
    assert world.containerd.during == [ME]
    assert kept(world.keychain) == ME
    world.pull(image="host/other", auth=AuthConfig(username="you", password="other"))
    assert kept(world.keychain) == ME


def test_a_pull_that_fails_leaves_none(world: World) -> None:
    """The kubelet tries one secret after the other."""

    def fail(context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNKNOWN, "401 Unauthorized")
        raise AssertionError

    world.pull(auth=AuthConfig(username="me", password="secret"))
    world.containerd.act = fail
    for auth in (AuthConfig(username="you", password="wrong"), None):
        with pytest.raises(grpc.RpcError):
            world.pull(auth=auth)
        assert kept(world.keychain) == ME
    assert world.containerd.during == [ME, Credentials("you", "wrong"), ME]


def test_a_pull_without_credentials_that_succeeds_removes_them(world: World) -> None:
    world.pull(auth=AuthConfig(username="me", password="secret"))
    world.pull()
    assert kept(world.keychain) is None


@pytest.mark.parametrize(
    "request_", [b"\xff\xff", b"", PullImageRequest(image=ImageSpec(image="A B")).SerializeToString()]
)
def test_odd_requests_are_forwarded_unchanged(world: World, request_: bytes) -> None:
    assert world.call(f"{V1}/PullImage", request_) == b"answer"
    assert world.containerd.asked[0][1] == request_


def test_many_at_once(world: World) -> None:
    """Pulls take long, and none waits for the others."""
    count = 6
    barrier = threading.Barrier(count)
    world.containerd.act = lambda context: str(barrier.wait(60)).encode()
    threads = [
        threading.Thread(target=world.pull, args=(f"host/app{n}", AuthConfig(username="me", password="secret")))
        for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.containerd.asked) == count


def test_only_root_can_use_the_socket(world: World, tmp_path: Path) -> None:
    path = tmp_path / "run/cri.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "run/file").write_text("")
    taken = listening_at(tmp_path / "run/file", lambda address, threads: grpc.server(threads))
    with pytest.raises(MountError, match="it exists, and is not a socket: remove it"):
        taken.__enter__()


def test_no_further_thread_is_needed_to_ask_containerd(world: World) -> None:
    world.call(f"{V1}/ListImages")  # so that containerd has a thread
    with no_threads():
        assert world.call(f"{V1}/ListImages") == b"answer"
    assert world.call(f"{V1}/ListImages") == b"answer"
