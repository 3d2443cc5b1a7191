"""CRI's ImageService (v1 and v1alpha2) in front of containerd's, for kubelet's `--image-service-endpoint`.

It forwards every request and answer as bytes, with deadlines, metadata and failures, so it need not know their types.
It reads only the credentials in PullImage; the keychain keeps them while the pull runs, and longer if it succeeds.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from ocifs.snapshotter.cri_pb2 import PullImageRequest
from ocifs.snapshotter.keychain import Keychain, credentials_of, repository_of

SERVICES: Final = ("runtime.v1.ImageService", "runtime.v1alpha2.ImageService")
_PULL: Final = "PullImage"
_THREADS: Final = 128
"""Most requests at once, most of them pulls. Threads are started as they are needed."""
_DEADLINE_MAX: Final = 366 * 86400.0
"""Seconds: a longer deadline means none (gRPC has 9e18 where the client sets none)."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 16 << 20),  # kubelet's limit
    ("grpc.max_send_message_length", 16 << 20),
)
_RECONNECT: Final = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000))
_log = logging.getLogger(__name__)


class ImageService(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """Forwards to the ImageService at an address such as `unix:/run/containerd/containerd.sock`."""

    def __init__(self, containerd: str, keychain: Keychain) -> None:
        self._keychain = keychain
        self._channel = grpc.insecure_channel(containerd, options=[*_OPTIONS, *_RECONNECT])

    def close(self) -> None:
        """Close the connection to containerd."""
        self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a method; None for services that it does not forward."""
        _, service, method = handler_call_details.method.split("/", 2)
        if service not in SERVICES:
            return None
        forward = self._channel.unary_unary(handler_call_details.method, bytes, bytes)

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            if method == _PULL:
                return self._pull(request, context, forward)
            return _forward(request, context, forward)

        return grpc.unary_unary_rpc_method_handler(handle, bytes, bytes)

    def _pull(self, request: bytes, context: grpc.ServicerContext, forward: grpc.UnaryUnaryMultiCallable) -> bytes:
        """Forward a pull, with its credentials in the keychain."""
        try:
            parsed = PullImageRequest.FromString(request)
            repository = repository_of(parsed.image.image)
        except DecodeError:
            repository = None
        if repository is None:
            return _forward(request, context, forward)
        credentials = credentials_of(parsed.auth, repository)
        before = self._keychain.replace(repository, credentials) if credentials is not None else None
        try:
            answer = _forward(request, context, forward)
        except BaseException:  # `abort` raises a bare Exception
            if credentials is not None:
                self._keychain.restore(repository, credentials, before)
            raise
        if credentials is None:
            self._keychain.replace(repository, None)
        return answer


def make_image_server(service: ImageService) -> Callable[[str], grpc.Server]:
    """Return a function that makes a server for an address. It raises RuntimeError if that cannot be bound."""

    def make(address: str) -> grpc.Server:
        server = grpc.server(
            ThreadPoolExecutor(_THREADS, "cri"), handlers=[service], options=[("grpc.so_reuseport", 0), *_OPTIONS]
        )
        server.add_insecure_port(address)
        return server

    return make


def _forward(request: bytes, context: grpc.ServicerContext, forward: grpc.UnaryUnaryMultiCallable) -> bytes:
    """Return containerd's answer, or fail as it does; cancel the request to containerd if the client gives up."""
    remaining = context.time_remaining()
    deadline = remaining if remaining is not None and remaining < _DEADLINE_MAX else None
    metadata = [(each.key, each.value) for each in context.invocation_metadata() if each.key != "user-agent"]
    call = forward.future(request, timeout=deadline, metadata=metadata)
    context.add_callback(call.cancel)
    try:
        answer: bytes = call.result()
    except grpc.FutureCancelledError:
        context.abort(grpc.StatusCode.CANCELLED, "cancelled by the client")
    except grpc.RpcError as failure:
        context.set_trailing_metadata(tuple((each.key, each.value) for each in failure.trailing_metadata() or ()))
        context.abort(failure.code(), failure.details() or "")
    return answer
