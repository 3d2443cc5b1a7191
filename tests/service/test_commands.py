"""Served commands: they differ from the caller's only in the time they take."""

import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest

from ocifs.mount.lock import locked
from ocifs.mount.mountinfo import mount_at
from tests.cli.command import Argument, Ocifs
from tests.containers.conftest import image_of_programs
from tests.images import write_layout
from tests.service.running import Service, digests, parent_of
from tests.service.test_mounts import EXPECTED
from tests.waiting import wait_for

_TELLING = """
import atexit, os, sys
from ocifs.cli.main import main

by = int(os.environ["BY"])
atexit.register(lambda: os.write(by, b"itself" if "click" in sys.modules else b"service"))
main()
"""
"""Reports on the descriptor BY which process ran the command: the caller of a served command imports no click."""


@dataclass(frozen=True)
class Ran:
    """The outcome of a command."""

    by: str
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Caller:
    """Runs commands where a service runs."""

    ocifs: Ocifs

    def start(self, *arguments: Argument, **variables: str) -> "Running":
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [*self.ocifs.become, sys.executable, "-c", _TELLING, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.ocifs.variables(BY=str(writing), **variables),
            cwd=self.ocifs.home,
            pass_fds=[writing],
        )
        os.close(writing)
        return Running(process, reading)

    def run(self, *arguments: Argument, **variables: str) -> Ran:
        return self.start(*arguments, **variables).end()

    def both(self, *arguments: Argument, **variables: str) -> tuple[Ran, Ran]:
        """Run a command with the service and without."""
        return self.run(*arguments, **variables), self.run(*arguments, OCIFS_NO_SERVICE="1", **variables)

    def does_the_same(self, *arguments: Argument, **variables: str) -> bool:
        """Whether a command succeeds with the service and without, with the same output."""
        served, itself = self.both(*arguments, **variables)
        assert (served.by, served.code, itself.by) == ("service", 0, "itself")
        return replace(served, by="itself") == itself

    def is_idle(self) -> bool:
        """Whether no command runs in the service."""
        return not self.commands()

    def waits_for_a_lock(self) -> bool:
        """Whether one of its processes waits for the lock of a mountpoint, having opened it."""
        return any(waits_for_the_lock(self.ocifs, pid) for pid in self.ocifs.processes())

    def commands(self) -> list[int]:
        return [pid for pid in self.ocifs.processes() if name_of(pid) == "ocifs-command"]


@dataclass
class Running:
    process: "subprocess.Popen[bytes]"
    reading: int

    def end(self) -> Ran:
        out, err = self.process.communicate(timeout=90)
        by = os.read(self.reading, 100).decode()
        os.close(self.reading)
        return Ran(by, self.process.returncode, out.decode(), err.decode())


def waits_for_the_lock(ocifs: Ocifs, pid: int) -> bool:
    return str(ocifs.runtime / "ocifs" / "mountpoints.lock") in open_files(pid)


def open_files(pid: int) -> set[str]:
    try:
        return {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return set()


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.fixture
def caller(service: Service) -> Caller:
    found = Caller(service.ocifs)
    wait_for(lambda: found.run("mounts").by == "service")  # it has loaded its modules
    return found


def test_the_service_runs_commands_that_succeed(caller: Caller, image: Path) -> None:
    mountpoint = caller.ocifs.mountpoint()
    relative = os.path.relpath(mountpoint, caller.ocifs.home)
    assert caller.run("mount", "-v", image, relative) == Ran("service", 0, "", "ocifs: mounted by the erofs engine\n")
    assert digests(mountpoint) == EXPECTED
    for arguments in (["mounts"], ["mounts", "--json"], ["mounts", "-v"], ["mount", "--keep", image, mountpoint]):
        wait_for(lambda: caller.does_the_same(*arguments))  # noqa: B023 - others mount meanwhile
    assert caller.run("umount", relative) == Ran("service", 0, "", "")
    assert mount_at(str(mountpoint)) is None
    made = caller.run("mount", image)
    assert made.by == "service"
    assert digests(Path(made.out.rstrip())) == EXPECTED
    caller.ocifs.clear(Path(made.out.rstrip()))
    ended = caller.run("umount", relative)  # the errors of umount are its results
    assert ended == replace(caller.run("umount", relative, OCIFS_NO_SERVICE="1"), by="service")
    assert ended.code == 7
    assert caller.ocifs.mounts() == []


def test_the_caller_runs_commands_that_fail(caller: Caller, image: Path) -> None:
    full = caller.ocifs.home / "full"
    full.mkdir()
    (full / "file").touch()
    rows: list[list[Argument]] = [
        ["mount", "--help"],
        ["mount", "--limit", "help"],
        ["mount"],
        ["mount", "--nonsense", image, full],
        ["mount", image, full],
        ["mount", image, "nowhere/below"],
        ["mount", f"{image}:none", full],
        ["mount", "nowhere", full],
        ["mount", "docker://localhost/none:1", "nowhere/below"],
        ["mount", "-", full],
        ["mount", "--survive", "--foreground", image, full],
        ["umount"],
        ["umount", "--all", full],
        ["mounts", "--nonsense"],
        ["run", "--tty", image, "true"],
        ["run", image, "no-such-program"],
        ["run", "--runtime", "no-such-runtime", image, "true"],
        ["run", "--env-file", "/dev/stdin", "--nonsense", image, "true"],
        ["bundle", image, full],
        ["bundle", "--remount", image, full],
    ]
    for arguments in rows:
        assert caller.run(*arguments).by == "itself", arguments
    served, itself = caller.both("mount", image, full)
    assert served == itself
    assert served.err == f"ocifs: mountpoint {full} is not empty: choose an empty directory\n"
    assert caller.is_idle()


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONOPTIMIZE": "1"},
        {"PYTHONPATH": "/srv"},
        {"OCIFS_CACHE_DIR": "/dev/null"},
        {"OCIFS_LIMITS": "nonsense"},
        {"OCIFS_CACHE_DIR": "empty"},
    ],
)
def test_the_caller_runs_commands_of_another_python_and_with_a_cold_cache(
    caller: Caller, image: Path, variables: dict[str, str]
) -> None:
    mountpoint = caller.ocifs.mountpoint()
    assert caller.run("mount", image, mountpoint, **variables).by == "itself"
    caller.ocifs.clear(mountpoint)


def test_a_served_command_has_the_callers_environment_and_umask(caller: Caller, image: Path) -> None:
    runtime = caller.ocifs.runtime / "ocifs"
    with_log = caller.ocifs.home / "own.log"
    shell = ("sh", "-c", 'umask 027; exec "$@"', "sh")
    umasked = Caller(replace(caller.ocifs, become=shell))
    mountpoint = caller.ocifs.mountpoint()
    assert umasked.run("bundle", "--args", "true", "--rootfs", "overlay", image, "bundle").by == "service"
    assert caller.ocifs.home.joinpath("bundle").stat().st_mode & 0o777 == 0o700
    assert caller.run("umount", "bundle").by == "service"
    assert caller.run("mount", "--log", with_log, image, mountpoint).by == "service"
    for zone in ("UTC-3", "UTC+5"):
        wait_for(lambda: caller.does_the_same("mounts", "-v", TZ=zone))  # noqa: B023
    assert runtime.is_dir()
    caller.ocifs.output("umount", mountpoint)


def test_a_served_command_has_the_callers_terminal(caller: Caller, image: Path) -> None:
    def shown(never: str) -> bytes:
        outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
        with os.fdopen(outer, "rb", buffering=0) as terminal, os.fdopen(inner, "wb") as screen:
            variables = caller.ocifs.variables(OCIFS_NO_SERVICE=never)
            subprocess.run(caller.ocifs.command("mounts"), stdin=screen, stdout=screen, env=variables, check=True)
            return terminal.read(1 << 16)

    with caller.ocifs.mounted(image):
        wait_for(lambda: shown("") == shown("1"))
        lines = shown("").splitlines()
        assert len(lines) >= 2
        assert any("…" in line.decode() for line in lines)


def test_output_that_fails_ends_a_command_as_usual(caller: Caller, image: Path) -> None:
    with caller.ocifs.mounted(image):
        for never in ("", "1"):
            command = caller.ocifs.command("mounts")
            variables = caller.ocifs.variables(OCIFS_NO_SERVICE=never)
            with open("/dev/full", "wb") as full:
                ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=variables, check=False)
            assert (ran.returncode, ran.stderr) == (1, b"ocifs: No space left on device\n")
            reading, writing = os.pipe()
            os.close(reading)
            with os.fdopen(writing, "wb") as broken:
                ran = subprocess.run(command, stdout=broken, stderr=subprocess.PIPE, env=variables, check=False)
            assert (ran.returncode, ran.stderr) == (0, b"")
            ran = subprocess.run(
                ["sh", "-c", '"$@" >&-', "sh", *command], capture_output=True, env=variables, check=False
            )
            assert ran.stderr == b"ocifs: Bad file descriptor\n"


@contextmanager
def blocked(ocifs: Ocifs, mountpoint: Path) -> Iterator[None]:
    """Hold the lock of a mountpoint, for which commands wait."""
    with mock.patch.dict(os.environ, XDG_RUNTIME_DIR=str(ocifs.runtime)), locked(str(mountpoint)):
        yield


@pytest.mark.parametrize("verb", ["mount", "umount", "bundle"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_command_as_usual(caller: Caller, image: Path, verb: str, end: signal.Signals) -> None:
    ends = []
    target = caller.ocifs.home / "target"
    target.mkdir()
    commands: dict[str, list[Argument]] = {
        "mount": ["mount", image, target],
        "umount": ["umount", target],
        "bundle": ["bundle", "--args", "true", "--rootfs", "overlay", image, target],
    }
    if verb == "umount":
        assert caller.run("mount", image, target).code == 0
    for never in ("", "1"):
        with blocked(caller.ocifs, target / "lower" if verb == "bundle" else target):
            command = caller.start(*commands[verb], OCIFS_NO_SERVICE=never)
            wait_for(lambda: caller.waits_for_a_lock() or command.process.poll() is not None)  # noqa: B023
            assert command.process.poll() is None, command.end()
            command.process.send_signal(end)
            ends.append(replace(command.end(), by=""))
        wait_for(lambda: caller.is_idle() and not caller.waits_for_a_lock())
    expected = {
        signal.SIGINT: Ran("", 130, "", "ocifs: interrupted\n"),
        signal.SIGTERM: Ran("", 143 if verb == "bundle" else -signal.SIGTERM, "", ""),
        signal.SIGKILL: Ran("", -signal.SIGKILL, "", ""),
    }
    assert ends == [expected[end]] * 2
    wait_for(lambda: caller.ocifs.mounts() == ([str(target)] if verb == "umount" else []))
    caller.ocifs.clear(target)


def test_the_end_of_its_process_is_one_error(caller: Caller, image: Path) -> None:
    mountpoint = caller.ocifs.mountpoint()
    with blocked(caller.ocifs, mountpoint):
        command = caller.start("mount", image, mountpoint)
        wait_for(caller.waits_for_a_lock)
        for pid in caller.commands():
            os.kill(pid, signal.SIGKILL)
        ended = command.end()
    assert (ended.code, ended.out) == (7, "")
    assert ended.err == "ocifs: the service has ended while it ran this command: see its log, and try again\n"
    wait_for(lambda: caller.ocifs.mounts() == [])


def test_a_stopped_process_of_the_service_keeps_no_command_waiting(caller: Caller, image: Path) -> None:
    """A first signal ends the command after a time, a second one at once; without a signal, it is an error."""
    places = [caller.ocifs.mountpoint() for _ in range(3)]
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(blocked(caller.ocifs, place))
        left, once, twice = (caller.start("mount", image, place) for place in places)
        wait_for(lambda: len([pid for pid in caller.ocifs.processes() if waits_for_the_lock(caller.ocifs, pid)]) == 3)
        stopped = caller.commands()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        once.process.send_signal(signal.SIGINT)
        while twice.process.poll() is None:
            twice.process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        codes = [each.process.wait(90) for each in (left, once, twice)]
        for pid in stopped:  # they have the outputs open
            os.kill(pid, signal.SIGKILL)
    assert codes == [7, -signal.SIGINT, -signal.SIGINT]
    ended, *interrupted = (each.end() for each in (left, once, twice))
    assert [each.out + each.err for each in interrupted] == ["", ""]
    (pid,) = re.findall(r"^ocifs: process (\d+) of the service, which runs this command, is stopped: ", ended.err)
    assert int(pid) in stopped
    assert ended.err.endswith(f": continue it (kill -CONT {pid}) or end it, and try again\n")
    wait_for(lambda: caller.is_idle() and caller.ocifs.mounts() == [])


def test_without_the_process_for_commands_they_run_themselves(service: Service, caller: Caller, image: Path) -> None:
    (before,) = [pid for pid in caller.ocifs.processes() if name_of(pid) == "ocifs-commands"]
    os.kill(before, signal.SIGKILL)
    mountpoint = caller.ocifs.mountpoint()
    assert caller.run("mount", image, mountpoint).by == "itself"
    assert service.keeps(mountpoint)
    wait_for(lambda: caller.run("mounts").by == "service")
    service.kill_keeper()
    assert caller.run("mounts").by == "itself"
    caller.ocifs.clear(mountpoint)


@pytest.mark.parametrize(
    "message",
    [b"", b"x" * 100, struct.pack("<II", 1 << 30, 0), struct.pack("<II", 4, 0) + b"\xff" * 4],
)
def test_malformed_requests_run_no_command(caller: Caller, message: bytes) -> None:
    fd = os.open(caller.ocifs.runtime / "ocifs", os.O_PATH)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(f"/proc/self/fd/{fd}/commands.sock")
        os.close(fd)
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            answer = connection.makefile("rb").read()
            assert answer == b"" or b"unfit" in answer
    assert caller.run("mounts").by == "service"


def test_a_command_with_fewer_capabilities_keeps_its_own(caller: Caller) -> None:
    fewer = Caller(replace(caller.ocifs, become=("setpriv", "--bounding-set=-dac_override")))
    assert fewer.run("mounts").by == "itself"
    assert caller.run("mounts").by == "service"


def test_a_command_in_another_root_directory_mounts_by_itself(caller: Caller, image: Path) -> None:
    other = caller.ocifs.home / "root"
    other.mkdir()
    subprocess.run(["mount", "--rbind", "--make-private", "/", other], check=True)
    try:
        inside = Caller(replace(caller.ocifs, become=("chroot", str(other))))
        mountpoint = caller.ocifs.mountpoint()
        mounted = inside.run("mount", "-v", image, mountpoint)
        assert (mounted.by, mounted.code) == ("itself", 0)
        assert "the command has another root directory than the service" in mounted.err
        assert mount_at(str(mountpoint)) is None
        assert digests(other / mountpoint.relative_to("/")) == EXPECTED
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", other], check=True)


def test_a_command_in_a_mount_namespace_mounts_there(caller: Caller, image: Path) -> None:
    mountpoint = caller.ocifs.mountpoint()
    script = f'"$@" && sha256sum {mountpoint}/00 && cat /proc/self/mountinfo'
    inside = Caller(replace(caller.ocifs, become=("unshare", "--mount", "sh", "-c", script, "sh")))
    ran = inside.run("mount", image, mountpoint)
    assert (ran.by, ran.code) == ("service", 0), ran
    assert ran.out.startswith(EXPECTED[0])
    assert str(mountpoint) in ran.out
    assert mount_at(str(mountpoint)) is None


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a shell and a few programs."""
    return write_layout(tmp_path_factory.mktemp("programs") / "image", image_of_programs())


@pytest.fixture
def container(caller: Caller, programs: Path, runc: None) -> Caller:
    caller.ocifs.output("index", programs)
    return caller


def test_containers_are_children_of_the_caller(container: Caller, programs: Path) -> None:
    command: list[Argument] = ["--env", "A", programs, "sh", "-c", "echo $A; cat; echo error >&2; exit 7"]
    for rootfs in ("mount", "overlay", "tmpfs"):
        served, itself = container.both("run", "-i", "--rootfs", rootfs, *command, A="b")
        assert served == Ran("service", 7, "b\n", "error\n")
        assert itself == replace(served, by="itself")
    kept = container.run("run", "--keep", "--name", "box", programs, "true")
    assert (kept.by, kept.code) == ("service", 0)
    assert kept.err.startswith("ocifs: kept ")
    assert container.run("umount", container.ocifs.runtime / "ocifs" / "ocifs-box").code == 0
    assert container.is_idle()
    assert container.ocifs.mounts() == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_container(container: Caller, programs: Path, end: signal.Signals) -> None:
    running = container.start("run", programs, "sh", "-c", "echo ready; exec sleep 100")
    assert running.process.stdout is not None
    assert running.process.stdout.readline() == b"ready\n"
    parents = [parent_of(pid) for pid in container.ocifs.processes() if name_of(pid) in {"runc", "runc:[2:INIT]"}]
    assert running.process.pid in parents
    running.process.send_signal(end)
    ended = running.end()
    assert ended.code == (-end if end == signal.SIGKILL else 128 + end)
    wait_for(container.is_idle)
    wait_for(lambda: container.ocifs.mounts() == [])
    wait_for(lambda: not [*(container.ocifs.runtime / "ocifs").glob("ocifs-*")])
