"""containerd's snapshots service over gRPC, on a Unix socket that only root can connect to.

It turns messages into calls of `Snapshots` and back, and each SnapshotError into a status. It keeps no state.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from ocifs.errors import OcifsError, printable_path, shortage
from ocifs.snapshotter import snapshots_pb2 as pb
from ocifs.snapshotter.filters import Path as FieldPath
from ocifs.snapshotter.filters import parse_filters
from ocifs.snapshotter.metadata import Snapshot
from ocifs.snapshotter.snapshots import SnapshotMount, Snapshots
from ocifs.snapshotter.status import SnapshotError

SERVICE: Final = "containerd.services.snapshots.v1.Snapshots"
_PAGE: Final = 100
"""Most snapshots in a message of List."""
_KINDS: Final = {"view": pb.VIEW, "active": pb.ACTIVE, "committed": pb.COMMITTED}
_log = logging.getLogger(__name__)

Observe = Callable[[str, str, float], None]
"""Called with (method, name of the status, seconds) after each request."""
T = TypeVar("T")


class _Method(NamedTuple):
    request: type[Message]
    answer: Callable[[Snapshots, Any], Message | Iterator[Message]]


def make_server(snapshots: Snapshots, observe: Observe, address: str, threads: Executor) -> grpc.Server:
    """Return a server that answers at `address`, such as `unix:/run/x.sock`, in `threads`, once it is started.

    Raises:
        RuntimeError: The address cannot be bound.
    """
    server = grpc.server(
        threads,
        handlers=[grpc.method_handlers_generic_handler(SERVICE, _handlers(snapshots, observe))],
        options=[("grpc.so_reuseport", 0)],
    )
    server.add_insecure_port(address)
    return server


def _handlers(snapshots: Snapshots, observe: Observe) -> dict[str, grpc.RpcMethodHandler]:
    handlers = {}
    for name, method in _METHODS.items():
        make = grpc.unary_stream_rpc_method_handler if name == "List" else grpc.unary_unary_rpc_method_handler
        handlers[name] = make(
            _answering(name, method, snapshots, observe),
            request_deserializer=method.request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
    return handlers


def _answering(
    name: str, method: _Method, snapshots: Snapshots, observe: Observe
) -> Callable[[Any, grpc.ServicerContext], Message | Iterator[Message]]:
    def answer(request: Any, context: grpc.ServicerContext) -> Message | Iterator[Message]:
        began = time.monotonic()
        try:
            answered = method.answer(snapshots, request)
        except Exception as error:  # noqa: BLE001 - the boundary of a request
            failure = _failure(name, error)
        else:
            observe(name, "OK", time.monotonic() - began)
            return answered
        observe(name, failure.status, time.monotonic() - began)
        context.abort(grpc.StatusCode[failure.status], printable_path(str(failure)))
        raise AssertionError  # abort raises

    return answer


def _failure(name: str, error: Exception) -> SnapshotError:
    """Return the failure of a request; log those that are not the client's fault."""
    if isinstance(error, SnapshotError):
        if error.status in {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DATA_LOSS", "INTERNAL"}:
            _log.error("%s: %s", name, error)
        return error
    known = error if isinstance(error, OcifsError) else shortage(error)
    if known is not None:
        _log.error("%s: %s", name, known)
        return SnapshotError("UNAVAILABLE", str(known))
    if isinstance(error, OSError):
        _log.error("%s: %s", name, error)
        return SnapshotError("INTERNAL", f"{error.filename or name}: {error.strerror}")
    _log.error("%s failed", name, exc_info=error)
    return SnapshotError("INTERNAL", f"internal error: {type(error).__name__}: see the log of ocifs snapshotter")


def _prepare(snapshots: Snapshots, request: pb.CreateRequest) -> pb.MountsResponse:
    return _mounts(snapshots.prepare(request.key, request.parent, dict(request.labels)))


def _view(snapshots: Snapshots, request: pb.CreateRequest) -> pb.MountsResponse:
    return _mounts(snapshots.view(request.key, request.parent, dict(request.labels)))


def _mounts_of(snapshots: Snapshots, request: pb.KeyRequest) -> pb.MountsResponse:
    return _mounts(snapshots.mounts(request.key))


def _commit(snapshots: Snapshots, request: pb.CommitRequest) -> pb.Empty:
    snapshots.commit(request.name, request.key, dict(request.labels))
    return pb.Empty()


def _remove(snapshots: Snapshots, request: pb.KeyRequest) -> pb.Empty:
    snapshots.remove(request.key)
    return pb.Empty()


def _stat(snapshots: Snapshots, request: pb.KeyRequest) -> pb.InfoResponse:
    return pb.InfoResponse(info=_info(snapshots.metadata.get(request.key)))


def _update(snapshots: Snapshots, request: pb.UpdateRequest) -> pb.InfoResponse:
    paths = [*request.update_mask.paths]
    return pb.InfoResponse(info=_info(snapshots.metadata.update(request.info.name, dict(request.info.labels), paths)))


def _list(snapshots: Snapshots, request: pb.ListRequest) -> Iterator[pb.ListResponse]:
    matches = parse_filters([*request.filters])
    found = [_info(each) for each in snapshots.metadata.all() if matches(_fields(each))]
    return iter([pb.ListResponse(info=found[place : place + _PAGE]) for place in range(0, len(found), _PAGE)])


def _usage(snapshots: Snapshots, request: pb.KeyRequest) -> pb.UsageResponse:
    size, inodes = snapshots.usage(request.key)
    return pb.UsageResponse(size=size, inodes=inodes)


def _cleanup(snapshots: Snapshots, request: pb.KeyRequest) -> pb.Empty:
    snapshots.cleanup()
    return pb.Empty()


_METHODS: Final = {
    "Prepare": _Method(pb.CreateRequest, _prepare),
    "View": _Method(pb.CreateRequest, _view),
    "Mounts": _Method(pb.KeyRequest, _mounts_of),
    "Commit": _Method(pb.CommitRequest, _commit),
    "Remove": _Method(pb.KeyRequest, _remove),
    "Stat": _Method(pb.KeyRequest, _stat),
    "Update": _Method(pb.UpdateRequest, _update),
    "List": _Method(pb.ListRequest, _list),
    "Usage": _Method(pb.KeyRequest, _usage),
    "Cleanup": _Method(pb.KeyRequest, _cleanup),
}


def _mounts(mounts: list[SnapshotMount]) -> pb.MountsResponse:
    made = [pb.Mount(type=each.type, source=each.source, options=each.options) for each in mounts]
    return pb.MountsResponse(mounts=made)


def _info(snapshot: Snapshot) -> pb.Info:
    return pb.Info(
        name=snapshot.name,
        parent=snapshot.parent,
        kind=_KINDS[snapshot.kind],
        created_at=_timestamp(snapshot.created),
        updated_at=_timestamp(snapshot.updated),
        labels=snapshot.labels,
    )


def _timestamp(nanoseconds: int) -> Timestamp:
    return Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def _fields(snapshot: Snapshot) -> Callable[[FieldPath], str | None]:
    """Return the function that returns the fields of a snapshot that filters know."""

    def field(path: FieldPath) -> str | None:
        match path:
            case ("kind", *_):
                return snapshot.kind
            case ("name", *_):
                return snapshot.name
            case ("parent", *_):
                return snapshot.parent
            case ("labels", *key):
                return snapshot.labels.get(".".join(key))
        return None

    return field
