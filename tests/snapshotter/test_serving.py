"""The process of a snapshotter: its socket, its refusals, bad messages, metrics and unit."""

import os
import random
import stat
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from ocifs.cli.verbs import run
from ocifs.errors import MountError
from ocifs.mount.record import runtime_directory
from ocifs.service.snapshotter_numbers import read_numbers
from ocifs.snapshotter import snapshots_pb2 as pb
from ocifs.snapshotter.meter import Meter
from ocifs.snapshotter.server import SERVICE
from ocifs.snapshotter.serving import ended_by_dead_threads
from tests.cli.command import Ocifs
from tests.shortage import no_threads, pids_cgroup
from tests.snapshotter.client import Client, Snapshotter, running
from tests.waiting import wait_for

_METHODS = ("Prepare", "View", "Mounts", "Commit", "Remove", "Stat", "Update", "List", "Usage", "Cleanup")


def test_only_root_can_connect_and_nothing_is_left(tmp_path: Path, root: None) -> None:
    before = os.umask(0)
    try:
        with running(tmp_path) as snapshotter:
            assert stat.S_IMODE(snapshotter.settings.address.stat().st_mode) == 0o600
            for path in (snapshotter.root, *snapshotter.root.iterdir()):
                assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
            snapshotter.client.prepare("a")
            assert stat.S_IMODE((snapshotter.root / "snapshots/1").stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert sorted(os.listdir(tmp_path / "run")) == ["s.sock.lock"]


def test_a_stale_socket_is_replaced(tmp_path: Path, root: None) -> None:
    with running(tmp_path) as snapshotter:
        address = snapshotter.settings.address
        address.rename(address.with_name("stale"))
    (tmp_path / "run/stale").rename(address)
    with running(tmp_path) as snapshotter:
        snapshotter.client.prepare("a")


def test_bad_settings_are_one_line(tmp_path: Path, root: None, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    long = tmp_path / ("x" * 110)
    rows = [
        (7, ["--address", str(tmp_path / "file")], "it exists, and is not a socket"),
        (7, ["--address", str(long)], "has at most 107 bytes"),
        (7, ["--address", str(tmp_path / "open/s")], "can be written by"),
        (8, ["--root", str(tmp_path / "open")], "can be written by"),
        (2, ["--root", str(tmp_path / "file")], "is a file"),
        (2, ["--idle", "-1"], "--idle"),
        (2, ["--index-up-to", "much"], "--index-up-to"),
        (2, ["--no-prefetch"], "only the work in the background verifies them: limit it with --prefetch-rate"),
        (2, ["nothing"], "nothing"),
    ]
    for code, options, message in rows:
        defaults = ["--no-service", "--root", str(tmp_path / "root"), "--address", str(tmp_path / "s.sock")]
        assert (options, run(["snapshotter", *defaults, *options], None)) == (options, code)
        said = capsys.readouterr().err
        assert message in said, (options, said)
        assert code == 2 or said.count("\n") == 1


def test_two_snapshotters_at_one_address(tmp_path: Path, root: None, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path) as snapshotter:
        address = str(snapshotter.settings.address)
        other = ["--no-service", "--root", str(tmp_path / "other"), "--address", address]
        assert run(["snapshotter", *other], None) == 8
        assert "another ocifs snapshotter uses the address" in capsys.readouterr().err
        snapshotter.client.prepare("a")


def test_any_bytes_get_an_answer(tmp_path: Path, root: None) -> None:
    known = {"OK", "NOT_FOUND", "ALREADY_EXISTS", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}
    choice = random.Random(7)
    request = pb.CreateRequest(key="k", parent="p", labels={"l": "v"}).SerializeToString()
    samples = [b"", b"\xff", request, request[:-1], bytes(5000)]
    for _ in range(30):
        damaged = bytearray(request)
        damaged[choice.randrange(len(damaged))] = choice.randrange(256)
        samples += [bytes(damaged), choice.randbytes(choice.randrange(60))]
    with running(tmp_path) as snapshotter:
        for method in _METHODS:
            kind = (
                snapshotter.client.channel.unary_stream if method == "List" else snapshotter.client.channel.unary_unary
            )
            call = kind(f"/{SERVICE}/{method}", request_serializer=bytes, response_deserializer=bytes)
            for sample in samples:
                status, details = "OK", ""
                try:
                    answer = call(sample, timeout=30)
                    if method == "List":
                        list(answer)
                except grpc.RpcError as error:
                    status, details = error.code().name, error.details()
                assert status in known or details == "Exception deserializing request!", (method, sample, details)
        unknown = snapshotter.client.channel.unary_unary(f"/{SERVICE}/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            unknown(b"", timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        for info in snapshotter.client.walk():
            snapshotter.client.remove(info.name)
        snapshotter.client.cleanup()
        assert os.listdir(snapshotter.root / "snapshots") == []


def test_without_more_threads_requests_wait_for_those_that_run(tmp_path: Path, root: None) -> None:
    """gRPC would not survive an exception in its pool, neither for a request nor at the end."""
    at_once = threading.Barrier(4)
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda _: at_once.wait(), range(4)))
        with ExitStack() as stack:
            snapshotter = stack.enter_context(running(tmp_path))
            with no_threads():
                snapshotter.client.prepare("a")
                assert [*callers.map(lambda _: snapshotter.client.stat("a").name, range(8))] == ["a"] * 8
            assert snapshotter.client.stat("a").name == "a"
            stack.enter_context(no_threads())
            stack.enter_context(ended_at_once(snapshotter))


@contextmanager
def ended_at_once(snapshotter: Snapshotter) -> Iterator[None]:
    """Check, before the end, that requests are still answered."""
    yield
    assert snapshotter.client.stat("a").name == "a"


def test_no_more_processes_and_threads_once_it_listens(ocifs: Ocifs, root: None) -> None:
    address = ocifs.home / "run/s.sock"
    with pids_cgroup() as pids, ThreadPoolExecutor(8) as callers:
        places: list[str | Path] = ["--root", ocifs.home / "root", "--address", address]
        with pids.inside(ocifs).start("snapshotter", "--no-service", "--log", ocifs.home / "log", *places) as process:
            wait_for(lambda: "listening" in _text(ocifs.home / "log"))
            pids.allow()
            client = Client(address)
            with client.channel:
                client.prepare("a")
                assert [*callers.map(lambda _: client.stat("a").name, range(16))] == ["a"] * 16
                pids.lift()
                assert [*callers.map(lambda _: client.stat("a").name, range(16))] == ["a"] * 16
                pids.allow()
                process.terminate()
                assert (process.wait(60), process.communicate()) == (0, (b"", b""))


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_start_without_threads_is_one_line(tmp_path: Path, root: None, capsys: pytest.CaptureFixture[str]) -> None:
    with no_threads():
        arguments = ["--root", str(tmp_path / "root"), "--address", str(tmp_path / "run/s.sock")]
        assert run(["snapshotter", "--no-service", *arguments], None) == 6
    said = capsys.readouterr().err
    assert said.startswith("ocifs: no more threads: raise the limit")
    assert said.count("\n") == 1


def test_a_dead_thread_of_grpc_ends_the_process() -> None:
    def die() -> None:
        raise MemoryError

    def serve() -> None:
        with ended_by_dead_threads(stop):
            threading.Thread(target=die).start()
            assert stop.wait(30)

    stop = threading.Event()
    with pytest.raises(MountError, match=r"^a thread of gRPC has ended: MemoryError: "):
        serve()


def test_metrics(tmp_path: Path, root: None) -> None:
    pytest.importorskip("prometheus_client")
    from ocifs.service.metrics import render

    with running(tmp_path) as snapshotter:
        snapshotter.client.prepare("a")
        snapshotter.client.commit("c", "a")
        snapshotter.client.view("v", "c")
        meter = Meter(snapshotter.snapshots)
        meter.observe("Prepare", "OK", 0.002)
        meter.observe("Prepare", "OK", 100.0)
        meter.observe("Prepare", "ALREADY_EXISTS", 0.002)
        meter.observe_refuted()
        stop = threading.Event()
        writing = threading.Thread(target=meter.run, args=[stop])
        writing.start()
        wait_for(lambda: read_numbers(runtime_directory()) is not None)
        text = render().decode()
        stop.set()
        writing.join()
    for line in (
        'ocifs_snapshotter_snapshots{kind="committed"} 1.0',
        'ocifs_snapshotter_snapshots{kind="view"} 1.0',
        'ocifs_snapshotter_snapshots{kind="active"} 0.0',
        'ocifs_snapshotter_snapshots{kind="remote"} 0.0',
        "ocifs_snapshotter_images 0.0",
        "ocifs_snapshotter_refuted_images_total 1.0",
        'ocifs_snapshotter_requests_total{method="Prepare",status="OK"} 2.0',
        'ocifs_snapshotter_requests_total{method="Prepare",status="ALREADY_EXISTS"} 1.0',
        'ocifs_snapshotter_request_seconds_bucket{le="0.005",method="Prepare"} 2.0',
        'ocifs_snapshotter_request_seconds_bucket{le="+Inf",method="Prepare"} 3.0',
    ):
        assert line in text.splitlines()
    assert read_numbers(runtime_directory()) is None
    assert "ocifs_snapshotter" not in render().decode()


def test_the_unit_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["snapshotter", "unit"], None) == 0
    unit = capsys.readouterr().out.splitlines()
    assert f"ExecStart={Path(sys.executable).parent}/ocifs snapshotter" in unit
    assert {"Type=notify", "KillMode=process", "Before=containerd.service k3s.service k3s-agent.service"} <= set(unit)
