"""The keeper and its workers with less than they need, and killed at any time."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ocifs.mount.mountinfo import mount_at
from tests.cli.command import Ocifs
from tests.depth import depth
from tests.service.running import Service, digests
from tests.service.test_mounts import EXPECTED, readers
from tests.shortage import Pids, limited, pids_cgroup
from tests.waiting import wait_for

TIMES = depth(2, 40)


@pytest.fixture
def small_runtime(command: Ocifs) -> Iterator[Path]:
    """A runtime directory on a file system of its own."""
    runtime = command.runtime
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", runtime], check=True)
    yield runtime
    subprocess.run(["umount", "--lazy", runtime], check=True)


def test_a_full_disk_of_the_runtime_directory_is_one_clear_error(
    small_runtime: Path, command: Ocifs, image: Path
) -> None:
    service = Service(command, image)
    service.start()
    try:
        filler = small_runtime / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            os.posix_fallocate(file.fileno(), 0, 1 << 20)
        while shutil.disk_usage(small_runtime).free:
            filler.write_bytes(b"x" * (filler.stat().st_size + 4096))
        result = command.run("mount", image, command.mountpoint())
        assert (result.code, result.err) == (7, "ocifs: service: cannot prepare a mount: No space left on device\n")
        filler.unlink()
        with service.mounted() as mountpoint:
            assert digests(mountpoint) == EXPECTED
    finally:
        service.end()


def test_without_its_runtime_directory_a_service_goes_on(service: Service) -> None:
    with service.mounted() as mountpoint:
        keeper = service.keeper
        with service.connect() as connection:
            shutil.rmtree(service.ocifs.runtime / "ocifs")
            connection.sendall(b"\0" * 8)
        assert digests(mountpoint) == EXPECTED
        with service.ocifs.mounted(service.image) as another:  # by a daemon, as the service cannot be found
            assert digests(another) == EXPECTED
        assert service.keeper == keeper


def test_too_few_files_are_one_clear_error(command: Ocifs, image: Path) -> None:
    limited_command = limited(command, "nofile", 40)
    service = Service(limited_command, image)
    service.start()
    unlimited = replace(service, ocifs=command)
    mounted = []
    try:
        for _ in range(10):
            mountpoint = command.mountpoint()
            result = command.run("mount", image, mountpoint)
            if result.code:
                break
            mounted.append(mountpoint)
        assert (result.code, result.err.partition(":")[2].partition(":")[0]) == (6, " too many open files")
        assert mounted
        for mountpoint in mounted:
            assert digests(mountpoint) == EXPECTED
        command.output("umount", mounted.pop())
        with unlimited.mounted() as mountpoint:
            assert digests(mountpoint) == EXPECTED
    finally:
        service.end()


@pytest.fixture
def pids() -> Iterator[Pids]:
    with pids_cgroup() as made:
        yield made


def test_a_fork_that_fails_is_one_clear_error(command: Ocifs, image: Path, pids: Pids) -> None:
    service = Service(pids.inside(command), image)
    service.start()
    try:
        keeper = service.keeper
        pids.path.joinpath("pids.max").write_text("2")
        result = command.run("mount", image, command.mountpoint())
        assert (result.code, result.err) == (
            6,
            "ocifs: no more processes: raise the limit (ulimit -u, TasksMax, pids.max)\n",
        )
        pids.lift()
        with replace(service, ocifs=command).mounted() as mountpoint:
            assert service.keeper == keeper
            pids.path.joinpath("pids.max").write_text("2")
            os.kill(service.worker(mountpoint), signal.SIGKILL)
            wait_for(lambda: "could not be forked" in command.log.read_text())
            pids.lift()
            assert digests(mountpoint) == EXPECTED
    finally:
        pids.lift()
        service.end()


@contextmanager
def mounted_without_worker(command: Ocifs, image: Path, pids: Pids) -> Iterator[tuple[Service, Path]]:
    """Mount, and kill the worker while no other one can be started."""
    service = Service(pids.inside(command), image)
    service.start()
    try:
        mountpoint = command.mountpoint()
        command.output("mount", "--hot-pack", "0", image, mountpoint)
        pids.path.joinpath("pids.max").write_text("2")
        os.kill(service.worker(mountpoint), signal.SIGKILL)
        wait_for(lambda: "could not be forked" in command.log.read_text())
        yield service, mountpoint
    finally:
        pids.lift()
        service.end()


def test_a_mount_that_ends_without_a_worker_leaves_nothing(command: Ocifs, image: Path, pids: Pids) -> None:
    with mounted_without_worker(command, image, pids) as (_, mountpoint):
        subprocess.run(["umount", mountpoint], check=True)


def test_a_keeper_that_ends_starts_the_worker_that_is_due(command: Ocifs, image: Path, pids: Pids) -> None:
    with mounted_without_worker(command, image, pids) as (service, mountpoint):
        keeper = service.keeper
        pids.lift()
        os.kill(keeper, signal.SIGTERM)
        wait_for(lambda: not service.keepers())
        assert digests(mountpoint) == EXPECTED


def test_workers_that_die_before_they_serve_leave_one_record(command: Ocifs, image: Path, pids: Pids) -> None:
    service = Service(pids.inside(command), image)
    service.start()
    try:
        with replace(service, ocifs=command).mounted() as mountpoint:
            worker = service.worker(mountpoint)
            others = int(pids.path.joinpath("pids.current").read_text()) - len(os.listdir(f"/proc/{worker}/task"))
            pids.path.joinpath("pids.max").write_text(str(others + 1))  # enough for a worker, but not for its threads
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda: "ended with status 6, and is replaced" in command.log.read_text())
            pids.lift()
            assert digests(mountpoint) == EXPECTED
            wait_for(lambda: len([*(command.runtime / "ocifs").glob("*.json")]) == 1)
            assert service.worker(mountpoint) != worker
    finally:
        pids.lift()
        service.end()


@pytest.mark.parametrize("victim", ["keeper", "worker", "command"])
def test_a_mount_during_which_anything_is_killed_is_complete_or_none(service: Service, victim: str) -> None:
    for number in range(TIMES):
        mountpoint = service.ocifs.mountpoint()
        command = service.ocifs.start("mount", service.image, mountpoint)
        delay = random.Random(number).uniform(0.15, 0.6)
        time.sleep(delay)
        _kill(service, victim, command)
        out, err = command.communicate(timeout=90)
        if not service.keepers():
            service.start()
        wait_for(lambda: _is_complete_or_none(service, mountpoint))  # noqa: B023
        if mount_at(str(mountpoint)) is not None:
            service.ocifs.run("umount", "--lazy", mountpoint)  # others may have copied it to their namespace
            assert mount_at(str(mountpoint)) is None
        else:
            assert command.returncode, (out, err, delay)
        assert b"Traceback" not in err
    wait_for(lambda: service.mounts() == 0)
    wait_for(lambda: len(service.ocifs.processes()) == 3)  # the keeper and its two templates


def _is_complete_or_none(service: Service, mountpoint: Path) -> bool:
    """Whether a mount can be read, or there is none; a worker whose command has died may be about to unmount."""
    if mount_at(str(mountpoint)) is None:
        return True
    try:
        kept = service.listed(mountpoint).kept is not None  # else by a daemon, because no service could be found
        return (not kept or service.keeps(mountpoint)) and digests(mountpoint) == EXPECTED
    except (OSError, ValueError):  # it has just gone
        return False


def _kill(service: Service, victim: str, command: "subprocess.Popen[bytes]") -> None:
    keeper = service.keeper
    if victim == "command":
        command.kill()
    elif victim == "keeper":
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: keeper not in service.ocifs.processes())
    else:
        for pid in service.ocifs.processes():
            if Path(f"/proc/{pid}/comm").read_text() == "ocifs-worker\n":
                os.kill(pid, signal.SIGKILL)


def _keeps_all(service: Service, *mountpoints: Path) -> bool:
    """Whether a keeper has all mounts; one is started if none runs, as systemd does."""
    if not service.keepers():
        service.start()
    return all(service.keeps(mountpoint) for mountpoint in mountpoints)


@pytest.mark.parametrize("victim", ["old", "new"])
def test_an_upgrade_during_which_a_keeper_is_killed_loses_no_mount(service: Service, victim: str) -> None:
    with service.mounted() as first, service.mounted() as second:
        with readers(first, 1) as wrong:
            for number in range(TIMES):
                before = service.keeper
                upgrade = service.ocifs.start("service", "upgrade")
                time.sleep(random.Random(number).uniform(0.2, 1.0))
                for pid in service.keepers():
                    if (pid == before) == (victim == "old"):
                        os.kill(pid, signal.SIGKILL)
                upgrade.communicate(timeout=90)
                wait_for(lambda: _keeps_all(service, first, second))
        assert wrong == []
        assert digests(second) == EXPECTED
        assert service.mounts() == 2
        wait_for(lambda: len(service.ocifs.processes()) == 5)  # the keeper, its two templates and two workers
