"""Mounts by the service, and what they survive."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocifs.service.kept import Kept
from tests.cli.command import Ocifs
from tests.service.conftest import FILES, content
from tests.service.running import Service, digests
from tests.waiting import wait_for

EXPECTED = [hashlib.sha256(content(number)).hexdigest() for number in range(FILES)]


def drop() -> None:
    """Make the kernel forget the pages of all mounts."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


@contextmanager
def readers(mountpoint: Path, count: int = 2) -> Iterator[list[str]]:
    """Read everything again and again meanwhile; yield what goes wrong."""
    wrong: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                drop()
                if digests(mountpoint) != EXPECTED:
                    wrong.append("bytes")
                time.sleep(0.05)
            except OSError as error:
                wrong.append(errno.errorcode[error.errno or 0])

    threads = [threading.Thread(target=read) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def test_a_worker_of_the_keeper_serves_the_mount(service: Service) -> None:
    with service.mounted("--hot-pack", "0") as mountpoint:
        listed = service.listed(mountpoint)
        assert listed.kept is not None
        assert (listed.engine, listed.state, listed.kept.keeper) == ("erofs", "mounted", service.keeper)
        assert digests(mountpoint) == EXPECTED
        (shown,) = [each for each in json.loads(service.ocifs.output("mounts", "--json")) if each["pid"] == listed.pid]
        numbers = shown["numbers"]
        assert numbers["restarts"] == 0
        assert numbers["read_bytes"] >= FILES << 20
        assert sum(numbers["latency"]) == numbers["reads"]
        assert numbers["spans_decoded"] > 0
        assert sum(numbers["errors"].values()) == 0
        service.ocifs.output("umount", mountpoint)
        assert service.mounts() == 0
        assert [*(service.ocifs.runtime / "ocifs").glob("*.counters")] == []


@pytest.mark.parametrize("options", [["--no-service"], ["--engine", "fuse"]])
def test_a_daemon_serves_what_the_service_does_not(service: Service, options: list[str]) -> None:
    with service.mounted(*options) as mountpoint:
        listed = service.listed(mountpoint)
        assert listed.kept is None
        assert digests(mountpoint) == EXPECTED


def test_readers_notice_nothing_when_workers_are_killed(service: Service) -> None:
    with service.mounted() as mountpoint:
        with readers(mountpoint) as wrong:
            for _ in range(3):
                time.sleep(0.1)
                service.kill_worker(mountpoint)
        assert wrong == []
        assert service.restarts(mountpoint) == 3
        assert "mounted, restarts: 3" in service.ocifs.output("mounts")
        assert service.ocifs.log.read_text().count("was ended by signal 9, and is replaced") == 3


def test_a_worker_that_is_replaced_during_the_recording_leaves_no_small_readahead(service: Service) -> None:
    with service.mounted() as mountpoint:
        listed = service.listed(mountpoint)
        assert listed.kept is not None
        with open(f"/proc/{listed.pid}/fd/{listed.kept.state}", "rb") as state:
            known = Kept.read(state.fileno()).known
        assert known is not None
        setting = Path(f"/sys/class/bdi/{known.fuse}/read_ahead_kb")
        if not os.access(setting, os.W_OK):
            pytest.skip(f"{setting} may not be written")
        assert setting.read_text() == "128\n"
        service.kill_worker(mountpoint)
        wait_for(lambda: setting.read_text() == "1024\n")
        assert digests(mountpoint) == EXPECTED


def test_a_mount_whose_workers_die_is_given_up(command: Ocifs, image: Path) -> None:
    service = Service(command, image)
    service.start(restart_limit=1, log=str(command.log))
    try:
        with service.mounted("--hot-pack", "0") as mountpoint:  # no file is in the page cache
            service.kill_worker(mountpoint)
            os.kill(service.worker(mountpoint), signal.SIGKILL)
            wait_for(lambda: service.listed(mountpoint).state == "dead")
            with pytest.raises(OSError, match="Input/output error"):
                (mountpoint / "00").read_bytes()
            assert "given up, reads fail" in command.log.read_text()
            command.output("umount", mountpoint)
            with command.mounted(image, at=mountpoint):
                assert digests(mountpoint) == EXPECTED
    finally:
        service.end()


def test_mounts_survive_their_keeper_and_the_next_one_takes_over(service: Service) -> None:
    with service.mounted() as first, service.mounted() as second:
        with readers(first) as wrong:
            before = service.worker(first)
            service.kill_keeper()
            assert service.worker(first) == before
            service.start()
            wait_for(lambda: service.keeps(first))
            service.kill_worker(first)
        assert wrong == []
        assert digests(second) == EXPECTED
        service.ocifs.output("umount", first)
        assert service.mounts() == 1


def test_an_upgrade_replaces_keeper_and_workers_under_readers(service: Service) -> None:
    with service.mounted() as mountpoint:
        with readers(mountpoint) as wrong:
            for _ in range(3):
                before = service.keeper
                service.ocifs.output("service", "upgrade")
                wait_for(lambda keeper=before: service.keepers() != [keeper] and len(service.keepers()) == 1)  # type: ignore[misc]
                wait_for(lambda: service.keeps(mountpoint))
        assert wrong == []
        assert service.restarts(mountpoint) == 0


def test_a_stopped_service_leaves_its_mounts(service: Service) -> None:
    with service.mounted() as mountpoint:
        stopped = service.ocifs.run("service", "stop")
        assert (stopped.code, stopped.err) == (
            0,
            "ocifs: mounts that continue without a service: 1: `ocifs service` keeps them\n",
        )
        assert digests(mountpoint) == EXPECTED
        service.start()
        wait_for(lambda: service.keeps(mountpoint))
        service.kill_worker(mountpoint)
        drop()
        assert digests(mountpoint) == EXPECTED


def test_a_single_mount_can_have_its_own_keeper(command: Ocifs, image: Path) -> None:
    service = Service(command, image)
    with service.mounted("--survive") as mountpoint:
        with readers(mountpoint) as wrong:
            service.kill_worker(mountpoint)
        assert wrong == []
        assert service.restarts(mountpoint) == 1
        command.output("umount", mountpoint)
        wait_for(lambda: command.processes() == [])


@pytest.mark.parametrize("option", ["--read-timeout=60", "--survive"])
def test_a_mount_in_a_private_namespace_ends_with_it(command: Ocifs, image: Path, option: str) -> None:
    service = Service(command, image)
    if option != "--survive":
        service.start()
    mountpoint = service.ocifs.mountpoint()
    script = 'mount --make-rprivate / && "$@" && sha256sum <"$0/00"'
    ran = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            mountpoint,
            *command.command("mount", option, image, mountpoint),
        ],
        env=service.ocifs.variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.split()[0] == EXPECTED[0]
    if option == "--survive":
        wait_for(lambda: command.processes() == [])
    else:
        wait_for(lambda: service.mounts() == 0)
        service.end()


def test_a_replaced_worker_logs_to_the_file_that_the_command_has_opened(service: Service, tmp_path: Path) -> None:
    """Its path may be in the mount namespace of the command only: no worker opens it again."""
    log, moved = tmp_path / "own.log", tmp_path / "moved.log"

    def open_files(mountpoint: Path) -> set[str]:
        return {os.readlink(each) for each in Path(f"/proc/{service.worker(mountpoint)}/fd").iterdir()}

    with service.mounted("--log", str(log)) as mountpoint:
        assert str(log) in open_files(mountpoint)
        log.rename(moved)
        service.kill_worker(mountpoint)
        assert str(moved) in open_files(mountpoint)
        service.kill_keeper()
        service.start()
        wait_for(lambda: service.keeps(mountpoint))
        assert str(moved) in open_files(mountpoint)
        assert digests(mountpoint) == EXPECTED
    assert not log.exists()


def test_bundles_are_mounted_by_the_service(service: Service) -> None:
    bundle = service.ocifs.home / "box"
    service.ocifs.output("bundle", "--args", "true", "--rootfs", "overlay", service.image, bundle)
    assert service.mounts() == 1
    assert digests(bundle / "rootfs") == EXPECTED
    service.ocifs.output("umount", bundle)
    assert service.mounts() == 0


def test_sigterm_unmounts(service: Service) -> None:
    with service.mounted() as mountpoint:
        service.kill_worker(mountpoint)
        os.kill(service.worker(mountpoint), signal.SIGTERM)  # asks it to unmount
        wait_for(lambda: not os.path.ismount(mountpoint))
        wait_for(lambda: service.mounts() == 0)
