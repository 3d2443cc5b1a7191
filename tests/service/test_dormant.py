"""Idle mounts have dormant workers, which no reader notices."""

import fcntl
import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ocifs.service.dormant import OVER, PREPARED, STOPPED, UNPREPARED, Dormant
from ocifs.trusted_directory import TrustedDirectory
from tests.cli.command import Ocifs
from tests.depth import depth
from tests.mounted.test_aborted import abort, connections  # noqa: F401 - a fixture
from tests.service.conftest import content
from tests.service.running import Service, digests
from tests.service.test_mounts import EXPECTED, readers
from tests.waiting import wait_for


def start(command: Ocifs, seconds: float) -> None:
    command.output("service", "--idle", str(seconds), "--restart-limit", "1000")


@contextmanager
def idling(command: Ocifs, image: Path, seconds: float = 0.2) -> Iterator[Service]:
    service = Service(command, image)
    start(command, seconds)
    try:
        yield service
    finally:
        service.end()


def is_dormant(service: Service, mountpoint: Path) -> bool:
    listed = service.listed(mountpoint)
    return listed.state == "mounted" and listed.kept is not None and listed.kept.dormant


def sleep(service: Service, mountpoint: Path) -> int:
    """Wait until the worker is dormant; return its PID."""
    wait_for(lambda: is_dormant(service, mountpoint))
    return service.listed(mountpoint).pid


def is_right(mountpoint: Path, number: int) -> bool:
    """Read a file, which the kernel requests if it was not read before."""
    return (mountpoint / f"{number:02d}").read_bytes() == content(number)


def private_memory(pid: int) -> int:
    """Return the KiB that only this process has written."""
    (size,) = re.findall(r"^Private_Dirty: +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(size)


def test_a_mount_without_reads_has_a_dormant_worker_until_the_next_one(command: Ocifs, image: Path) -> None:
    with idling(command, image) as service, service.mounted("--hot-pack", "0") as mountpoint:
        assert is_right(mountpoint, 0)
        before = service.listed(mountpoint)
        memory = private_memory(before.pid)
        pid = sleep(service, mountpoint)
        assert pid != before.pid
        assert private_memory(pid) < memory
        wait_for(lambda: before.pid not in command.processes())
        wait_for(lambda: len(command.processes()) == 4)  # the keeper, its two templates, and the worker
        assert is_right(mountpoint, 1)
        after = service.listed(mountpoint)
        assert before.numbers is not None
        assert after.numbers is not None
        assert after.numbers.restarts == 0
        assert after.numbers.read_bytes > before.numbers.read_bytes
        assert (after.since, after.layers, after.log) == (before.since, before.layers, before.log)
        pid = sleep(service, mountpoint)
        assert "replaced" not in command.log.read_text()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: service.restarts(mountpoint) == 1)
        assert sleep(service, mountpoint) != pid
        assert is_right(mountpoint, 2)


def test_a_worker_that_is_being_replaced_is_not_listed(command: Ocifs, image: Path) -> None:
    with idling(command, image) as service, service.mounted("--hot-pack", "0") as mountpoint:
        pid = sleep(service, mountpoint)
        record = json.loads((command.runtime / f"ocifs/{pid}.json").read_text())
        before = command.runtime / f"ocifs/{os.getpid()}.json"
        with before.open("x") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            began = record["kept"]["began"] - 1
            json.dump(record | {"pid": os.getpid(), "kept": record["kept"] | {"began": began}}, file)
            file.flush()
            assert service.listed(mountpoint).pid == pid
        before.unlink()


def test_readers_notice_nothing_of_workers_that_fall_asleep_and_wake_up(command: Ocifs, image: Path) -> None:
    with idling(command, image, 0.02) as service, service.mounted("--hot-pack", "0") as mountpoint:
        slept: set[int] = set()
        with readers(mountpoint, 1) as wrong:
            until = time.monotonic() + depth(3, 60)
            while time.monotonic() < until:
                time.sleep(random.Random(len(slept)).uniform(0, 0.05))
                if is_dormant(service, mountpoint):
                    slept.add(service.listed(mountpoint).pid)
        assert wrong == []
        assert service.restarts(mountpoint) == 0
        sleep(service, mountpoint)
        wait_for(lambda: len([*(command.runtime / "ocifs").glob("*.json")]) == 1)


def test_anything_killed_while_workers_fall_asleep_and_wake_up_loses_no_mount(command: Ocifs, image: Path) -> None:
    with idling(command, image, 0.02) as service, service.mounted("--hot-pack", "0") as mountpoint:
        with readers(mountpoint, 1) as wrong:
            for number in range(depth(4, 80)):
                time.sleep(random.Random(number).uniform(0, 0.3))
                if number % 4 == 0:
                    service.worker(mountpoint)  # without it, nothing would hold the connection
                    service.kill_keeper()
                    start(command, 0.02)
                    wait_for(lambda: service.keeps(mountpoint))
                else:
                    kill_workers(command)
        assert wrong == []
        sleep(service, mountpoint)
        assert digests(mountpoint) == EXPECTED
        wait_for(lambda: len(command.processes()) == 4)
        wait_for(lambda: len([*(command.runtime / "ocifs").glob("*.json")]) == 1)


def kill_workers(command: Ocifs) -> None:
    for pid in command.processes():
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text() == "ocifs-worker\n":
                os.kill(pid, signal.SIGKILL)


def test_the_first_reads_are_recorded_after_a_dormant_start(command: Ocifs, image: Path, tmp_path: Path) -> None:
    own = {**command.environment, "OCIFS_CACHE_DIR": str(tmp_path / "cache")}  # without a pack of these reads
    command = replace(command, environment=own)
    with idling(command, image) as service, service.mounted("--hot-pack", "64M") as mountpoint:
        sleep(service, mountpoint)
        assert digests(mountpoint) == EXPECTED
        wait_for(lambda: service.listed(mountpoint).hot_pack is not None)
        pack = service.listed(mountpoint).hot_pack
        sleep(service, mountpoint)
        assert service.listed(mountpoint).hot_pack == pack


def test_the_end_of_a_mount_with_a_dormant_worker_leaves_nothing(
    command: Ocifs,
    image: Path,
    connections: Path,  # noqa: F811 - the fixture
) -> None:
    with idling(command, image) as service:
        for end in ("umount", "SIGTERM", "abort"):
            mountpoint = Path(command.output("mount", image).strip())
            worker = sleep(service, mountpoint)
            if end == "umount":
                command.output("umount", mountpoint)
            elif end == "SIGTERM":
                os.kill(worker, signal.SIGTERM)
            else:
                abort(connections, worker)
            wait_for(lambda: not mountpoint.exists())  # noqa: B023
            wait_for(lambda: service.state().mounts == 0)
            wait_for(lambda: len(command.processes()) == 3)  # the keeper, and its two templates
            assert {path.suffix for path in (command.runtime / "ocifs").iterdir()}.isdisjoint({".json", ".counters"})
        assert command.log.read_text().count("its FUSE connection was aborted") == 1


def test_dormant_workers_survive_their_keeper_and_an_upgrade(command: Ocifs, image: Path) -> None:
    with idling(command, image) as service, service.mounted() as first, service.mounted() as second:
        before = [sleep(service, mountpoint) for mountpoint in (first, second)]
        service.kill_keeper()
        assert is_right(first, 0)
        start(command, 0.2)
        for mountpoint in (first, second):
            wait_for(lambda: service.keeps(mountpoint))  # noqa: B023
            assert sleep(service, mountpoint) not in before
        keeper = service.keeper
        command.output("service", "upgrade")
        wait_for(lambda: service.keepers() != [keeper] and len(service.keepers()) == 1)
        for mountpoint in (first, second):
            wait_for(lambda: service.keeps(mountpoint))  # noqa: B023
            assert is_dormant(service, mountpoint)
            assert service.restarts(mountpoint) == 0
            assert is_right(mountpoint, 1)
        wait_for(lambda: len(command.processes()) == 5)


@pytest.mark.parametrize(
    ("prepared", "request_", "expected"),
    [
        (PREPARED, b"request", PREPARED),
        (PREPARED, b"", STOPPED),
        (OVER, b"", OVER),
        (UNPREPARED, b"", UNPREPARED),
        (-1, b"", UNPREPARED),
    ],
)
def test_a_dormant_worker_waits_only_if_it_is_prepared(
    tmp_path: Path, prepared: int, request_: bytes, expected: int
) -> None:
    kernel, device = socket.socketpair()
    record = tmp_path / f"{os.getpid()}.json"

    def prepare(file: int) -> int:
        if prepared < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(file, b"record")
        if expected == STOPPED:
            os.kill(os.getppid(), signal.SIGTERM)
        if request_:
            kernel.send(request_)
        return prepared

    directory = TrustedDirectory.open(tmp_path)
    message, order = Dormant.decode(Dormant(0, 1).encode(b"order"))
    assert order == b"order"
    with kernel, device:
        assert message.wait([device.fileno(), directory.fd], prepare) == expected
    assert record.read_bytes() == (b"" if prepared < 0 else b"record")
