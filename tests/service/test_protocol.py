"""The messages between commands and keepers: those of protocol 1 as they are for good, and what is refused."""

import json
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.errors import MountError
from ocifs.mount.counters import SIZE, Counters
from ocifs.mount.framing import FDS_MAX, MESSAGE_MAX, Incoming, receive_message, send_message
from ocifs.mount.record import from_json
from ocifs.service.kept import Kept
from ocifs.service.protocol import Handover, KeeperSettings, Pong, decode_request
from ocifs.service.starting import is_outdated
from ocifs.version import __version__
from tests.cli.command import Ocifs
from tests.service.running import Service

JOB_1 = {
    "image": "debian:latest",
    "digest": "sha256:" + "0" * 64,
    "mountpoint": "/mnt",
    "rootfs": {
        "tree_image": {"fd": 7, "offset": 0, "size": 4096},
        "layers": [[{"fd": 8, "offset": 0, "size": 100}, {"fd": 9, "offset": 0, "size": 200}]],
        "checksums": [17],
        "origins": [None],
        "published": [None],
        "prefetch": [[]],
    },
    "options": {
        "engine": "erofs",
        "span_cache": 67108864,
        "read_timeout": 60,
        "log": "/run/ocifs/ocifs.log",
        "prefetch": True,
        "prefetch_rate": None,
        "service": True,
        "survive": False,
        "allow_other": False,
        "suid": False,
        "dev": False,
        "replace": False,
    },
    "owner": None,
    "bundle": None,
}
KEPT_1 = {
    "job": JOB_1,
    "device": 5,
    "page": 6,
    "counters": "0123456789abcdef.counters",
    "since": 1780000000.5,
    "known": {"path": "/mnt", "device": "0:51", "id": 4294967999, "left": None},
    "protocol": 1,
    "version": "0.1.0",
}
HANDOVER_1 = {
    "mounts": 2,
    "settings": {"log": None, "journal": False, "restart_limit": 5, "request_seconds": 10.0, "metrics": None},
    "protocol": 1,
    "version": "0.1.0",
}


def test_a_mount_as_protocol_1_passes_it_on() -> None:
    kept = Kept.decode(json.dumps(KEPT_1).encode())
    assert kept.known is not None
    assert (kept.job.mountpoint, kept.known.id, kept.fds()) == ("/mnt", 4294967999, [5, 6, 7, 8, 9])
    renumbered = kept.renumbered({number: number + 10 for number in range(5, 10)})
    assert renumbered.fds() == [15, 16, 17, 18, 19]


def test_a_handover_as_protocol_1_begins_it() -> None:
    handover = from_json(json.dumps(HANDOVER_1).encode(), Handover)
    assert (handover.mounts, handover.settings.restart_limit) == (2, 5)


@pytest.mark.parametrize("what", ["upgrade", "ping"])
def test_requests_of_protocol_1(what: str) -> None:
    assert decode_request(json.dumps({"request": what, "protocol": 1, "version": "0.1.0"}).encode()).request == what


def test_counters_of_protocol_1(tmp_path: Path) -> None:
    page = struct.pack("<8s13Q", b"ocifs-c1", 1, 0, 2, 30, 4000, 5, 6, 7, 8_000_000, 9, 10, 11, 12).ljust(SIZE, b"\0")
    path = tmp_path / "page"
    path.write_bytes(page)
    fd = os.open(path, os.O_RDWR)
    numbers = Counters.open(fd).read()
    os.close(fd)
    assert (numbers.restarts, numbers.reads, numbers.read_bytes, numbers.cache_hits) == (2, 30, 4000, 5)
    assert (numbers.spans_decoded, numbers.bytes_fetched, numbers.read_seconds) == (6, 7, 8.0)
    assert (numbers.background_done, numbers.background_total, numbers.layers_verified) == (9, 10, 11)
    assert numbers.latency[0] == 12


def test_another_protocol_is_refused() -> None:
    with pytest.raises(
        MountError, match=r"is kept by ocifs 9.0 with protocol 2, this is .* with protocol 1: unmount it"
    ):
        Kept.decode(json.dumps({"protocol": 2, "version": "9.0", "mount": {}}).encode())
    with pytest.raises(MountError, match=r"the request comes from 9.0 with protocol 2: restart the service"):
        decode_request(json.dumps({"protocol": 2, "version": "9.0", "request": "fly"}).encode())


def test_a_message_arrives_with_its_files_in_pieces() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/dev/null", "rb") as null:
        fds = [null.fileno()] * 600
        send_message(ours, b"payload", fds)
        received = receive_message(theirs)
        assert received is not None
        assert (received[0], len(received[1])) == (b"payload", 600)
        for fd in received[1]:
            os.close(fd)
        ours.close()
        assert receive_message(theirs) is None


def _header(size: int, fds: int) -> bytes:
    return struct.pack("<II", size, fds)


def _files(connection: socket.socket, count: int, kind: str = "/dev/null") -> None:
    fd = os.open(kind, os.O_RDONLY)
    try:
        for first in range(0, count, 250):
            socket.send_fds(connection, [b"\0"], [fd] * min(250, count - first))
    finally:
        os.close(fd)


def _announce(connection: socket.socket, announced: int, count: int) -> None:
    connection.sendall(_header(100, announced))
    _files(connection, count)


def _message(connection: socket.socket, request: object, files: int = 0, kind: str = "/dev/null") -> None:
    payload = json.dumps(request).encode()
    connection.sendall(_header(len(payload), files))
    _files(connection, files, kind)
    connection.sendall(payload)


def _mount(version: str = __version__, **changes: object) -> dict[str, object]:
    job = JOB_1 | {"mountpoint": "/nowhere"} | changes
    return {"request": "mount", "protocol": 1, "version": version, "job": job, "fds": [7, 8, 9], "root": [0, 0]}


REFUSED: list[tuple[str, Callable[[socket.socket], object], str]] = [
    ("garbage", lambda end: end.sendall(b"GET / HTTP/1.1\r\n\r\n"), "message of 542393671 bytes"),
    ("no JSON", lambda end: end.sendall(_header(4, 0) + b"\xff\xfe{["), "malformed request"),
    ("deep JSON", lambda end: end.sendall(_header(200000, 0) + b"[" * 200000), "malformed request"),
    ("not an object", lambda end: _message(end, [1]), "malformed request"),
    ("unknown request", lambda end: _message(end, {"protocol": 1, "request": "fly"}), "malformed request"),
    (
        "other protocol",
        lambda end: _message(end, {"protocol": 2, "version": "9"}),
        "with protocol 2: restart the service",
    ),
    ("other version", lambda end: _message(end, _mount("0.0.9"), 4), "the command 0.0.9: `ocifs service upgrade`"),
    ("huge message", lambda end: end.sendall(_header(MESSAGE_MAX + 1, 0)), "bytes: 16777216 are allowed"),
    ("10,000 files", lambda end: end.sendall(_header(2, 10000)), f"10000 open files: {FDS_MAX} are allowed"),
    (
        "more files than announced",
        lambda end: _announce(end, 1, 2),
        "more than the announced 1",
    ),
    ("fewer files than announced", lambda end: end.sendall(_header(2, 1) + b"\0{}"), "0 open files of 1"),
    ("files before the header", lambda end: _files(end, 3), "file descriptors before its header"),
    ("no files", lambda end: _message(end, _mount()), "0 open files with a job of 3"),
    ("no regular files", lambda end: _message(end, _mount(), 4), "not a readable file"),
    ("no namespace", lambda end: _message(end, _mount(), 4, "/proc/self/status"), "is not a mount namespace"),
    ("no job", lambda end: _message(end, _mount() | {"job": None}, 4), "malformed request"),
    ("half a job", lambda end: _message(end, _mount() | {"job": {"image": "x"}}, 4), "malformed request"),
    ("wrong types", lambda end: _message(end, _mount(options={"span_cache": "many"}), 4), "malformed request"),
]


def _answer(connection: socket.socket) -> str:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return str(json.loads(data)["error"])


def test_what_is_no_request_is_refused_and_the_keeper_goes_on(service: Service) -> None:
    keeper = service.keeper
    assert service.mounts() == 0  # it has opened all that it needs
    opened = len(os.listdir(f"/proc/{keeper}/fd"))
    for name, send, expected in REFUSED:
        with service.connect() as connection:
            try:
                send(connection)
                answer = _answer(connection)
            except (BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
                continue
            assert expected in answer, name
    with service.connect() as connection:
        connection.sendall(b"\0")  # and is gone
    assert service.mounts() == 0
    assert service.keeper == keeper
    assert len(os.listdir(f"/proc/{keeper}/fd")) == opened
    with service.mounted() as mountpoint:
        assert (mountpoint / "00").stat().st_size == 1 << 20


def test_clients_that_stall_delay_nobody_and_are_refused_in_time(command: Ocifs, image: Path) -> None:
    service = Service(command, image)
    service.start(request_seconds=2.0, log=str(command.log))
    try:
        stalled = [service.connect() for _ in range(30)]
        for number, connection in enumerate(stalled):
            connection.sendall(_header(100, 0)[: number % 9])
        began = time.monotonic()
        with service.mounted():
            answers = [_answer(connection) for connection in stalled]
            assert set(answers) == {"no complete request within 2 s"}
            assert time.monotonic() - began < 60
        for connection in stalled:
            connection.close()
    finally:
        service.end()


def test_incoming_files_are_closed_with_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = os.listdir("/proc/self/fd")
        ours.sendall(_header(5, 2))
        _files(ours, 2)
        incoming = Incoming()
        for _ in range(2):
            incoming.receive(theirs)
        assert len(incoming.fds) == 2
        incoming.close()
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(("seconds", "outdated"), [(-5, True), (5, False)])
def test_a_service_is_outdated_if_a_module_is_newer(tmp_path: Path, seconds: float, outdated: bool) -> None:
    """Whatever time of modification the installer has given it."""
    module = tmp_path / "package/part.py"
    module.parent.mkdir()
    module.write_text("")
    os.utime(module, (0, 0))
    installed = module.stat().st_ctime
    pong = Pong(pid=1, mounts=0, settings=KeeperSettings(), since=installed + seconds)
    assert is_outdated(pong, tmp_path) == outdated
    (tmp_path / "cache.pyc").write_text("")
    assert not is_outdated(pong, module.parent / "none")
