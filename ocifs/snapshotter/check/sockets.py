"""Ask containerd and the snapshotter over their sockets. Importing this module imports gRPC."""

import grpc

from ocifs.errors import MountError, printable_path
from ocifs.snapshotter import snapshots_pb2 as pb
from ocifs.snapshotter.cri_pb2 import VersionResponse
from ocifs.snapshotter.server import SERVICE

_VERSION = "/containerd.services.version.v1.Version/Version"


def containerd_version(socket: str, seconds: float) -> str:
    """Return the version that containerd states, such as `v1.7.24`. Raises MountError without an answer in time."""
    return VersionResponse.FromString(_call(socket, _VERSION, b"", seconds)).version


def ask_snapshotter(socket: str, seconds: float) -> None:
    """Send a request that changes nothing. Raises MountError without an answer in time."""
    _call(socket, f"/{SERVICE}/Stat", pb.KeyRequest(key="ocifs-check").SerializeToString(), seconds)


def _call(socket: str, method: str, request: bytes, seconds: float) -> bytes:
    """Return the answer to a request; b"" if the server has no such object."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer: bytes = call(request, timeout=seconds)
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.NOT_FOUND:
                return b""
            raise MountError(printable_path(f"{failure.code().name}: {failure.details()}"[:300])) from None
    return answer
