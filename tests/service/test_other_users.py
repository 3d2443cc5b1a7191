"""The sockets of the service and processes of another user: out of reach, and closed at once."""

import os
import subprocess
from pathlib import Path

from tests.cli.command import Ocifs
from tests.service.running import Service
from tests.waiting import wait_for

_TRY = """
import os, socket, sys

runtime = int(sys.argv[1])
for name in sys.argv[2:]:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(f"/proc/self/fd/{runtime}/{name}")
            connection.settimeout(20)
            print(len(connection.recv(100)))
        except OSError as error:
            print(type(error).__name__)
        try:
            os.unlink(name, dir_fd=runtime)
            print("removed")
        except OSError as error:
            print(type(error).__name__)
"""
"""Connects to each socket, and prints how many bytes arrive before the end; then tries to remove it."""

SOCKETS = ("service.sock", "commands.sock")


def runtime_of(service: Service) -> Path:
    """Return the directory with the sockets, once both are there."""
    runtime = service.ocifs.runtime / "ocifs"
    wait_for(lambda: all((runtime / name).exists() for name in SOCKETS))
    return runtime


def as_another_user(user: Ocifs, runtime: Path) -> list[str]:
    fd = os.open(runtime, os.O_PATH)
    try:
        run = [user.interpreter, "-S", "-c", _TRY, str(fd), *SOCKETS]
        return subprocess.check_output(run, pass_fds=[fd], user=65534, group=65534, extra_groups=[], text=True).split()
    finally:
        os.close(fd)


def test_they_are_out_of_reach(service: Service, user: Ocifs) -> None:
    runtime = runtime_of(service)
    assert [(runtime / name).stat().st_mode & 0o777 for name in SOCKETS] == [0o600] * 2
    assert as_another_user(user, runtime) == ["PermissionError"] * 4


def test_the_service_closes_a_connection_at_once(service: Service, user: Ocifs) -> None:
    """Even if the modes are changed."""
    runtime = runtime_of(service)
    runtime.chmod(0o755)
    for name in SOCKETS:
        (runtime / name).chmod(0o666)
    assert as_another_user(user, runtime) == ["0", "PermissionError"] * 2
    runtime.chmod(0o700)
    service.ocifs.output("mounts")
