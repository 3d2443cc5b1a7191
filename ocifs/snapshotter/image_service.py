"""CRI's ImageService (v1 and v1alpha2) in front of containerd's, for kubelet's `--image-service-endpoint`.

It forwards every request and answer as bytes, with deadlines, metadata and failures, so it need not know their types.
It reads only the credentials in PullImage; the keychain keeps them while the pull runs, and longer if it succeeds.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Final

import grpc
import grpc.experimental
from google.protobuf.message import DecodeError

from ocifs.snapshotter.cri_pb2 import PullImageRequest
from ocifs.snapshotter.keychain import Keychain, credentials_of, repository_of

SERVICES: Final = ("runtime.v1.ImageService", "runtime.v1alpha2.ImageService")
_PULL: Final = "PullImage"
_DEADLINE_MAX: Final = 366 * 86400.0
"""Seconds: a longer deadline means none (gRPC has 9e18 where the client sets none)."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 16 << 20),  # kubelet's limit
    ("grpc.max_send_message_length", 16 << 20),
)
_WITHOUT_THREAD: Final = (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)
"""Let the thread that reads an answer poll for it. Otherwise gRPC starts a thread for that, and if the system refuses
it, this and all later requests of the channel wait for ever."""
_RECONNECT: Final = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000))
_log = logging.getLogger(__name__)

ForwardCall = Callable[[bytes, grpc.ServicerContext], bytes]
"""Forwards a request; returns containerd's answer."""


class ImageService(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """Forwards to the ImageService at an address such as `unix:/run/containerd/containerd.sock`."""

    def __init__(self, containerd: str, keychain: Keychain) -> None:
        self._keychain = keychain
        self._channel = grpc.insecure_channel(containerd, options=[*_OPTIONS, *_RECONNECT, _WITHOUT_THREAD])

    def close(self) -> None:
        """Close the connection to containerd."""
        self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a method; None for services that it does not forward."""
        _, service, method = handler_call_details.method.split("/", 2)
        if service not in SERVICES:
            return None
        forward = partial(self._forward, handler_call_details.method)

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            return self._pull(request, context, forward) if method == _PULL else forward(request, context)

        return grpc.unary_unary_rpc_method_handler(handle, bytes, bytes)

    def _pull(self, request: bytes, context: grpc.ServicerContext, forward: ForwardCall) -> bytes:
        """Forward a pull, with its credentials in the keychain."""
        try:
            parsed = PullImageRequest.FromString(request)
            repository = repository_of(parsed.image.image)
        except DecodeError:
            repository = None
        if repository is None:
            return forward(request, context)
        credentials = credentials_of(parsed.auth, repository)
        before = self._keychain.replace(repository, credentials) if credentials is not None else None
        try:
            answer = forward(request, context)
        except BaseException:  # `abort` raises a bare Exception
            if credentials is not None:
                self._keychain.restore(repository, credentials, before)
            raise
        if credentials is None:
            self._keychain.replace(repository, None)
        return answer

    def _forward(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Return containerd's answer, or fail as it does; cancel the request to containerd if the client gives up."""
        remaining = context.time_remaining()
        deadline = remaining if remaining is not None and remaining < _DEADLINE_MAX else None
        metadata = [(each.key, each.value) for each in context.invocation_metadata() if each.key != "user-agent"]
        # As a stream of one message: other threads can cancel that, even though it has no thread of its own.
        call = self._channel.unary_stream(method, bytes, bytes)(request, timeout=deadline, metadata=metadata)
        context.add_callback(call.cancel)
        answer: bytes
        try:
            (answer,) = call
        except grpc.RpcError as failure:
            context.set_trailing_metadata(tuple((each.key, each.value) for each in failure.trailing_metadata() or ()))
            context.abort(failure.code(), failure.details() or "")
        return answer


def make_image_server(service: ImageService) -> Callable[[str, Executor], grpc.Server]:
    """Return a function that makes a server for an address. It raises RuntimeError if that cannot be bound."""

    def make(address: str, threads: Executor) -> grpc.Server:
        server = grpc.server(threads, handlers=[service], options=[("grpc.so_reuseport", 0), *_OPTIONS])
        server.add_insecure_port(address)
        return server

    return make
