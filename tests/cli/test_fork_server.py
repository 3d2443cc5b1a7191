"""A command that forks from the server does what it does in an interpreter of its own."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.fork_server import ForkServer, fork_server


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        [],
        ["ls"],
        ["ls", "nothing"],
        ["ls", "{demo}"],
        ["ls", "-l", "{demo}", "/etc"],
        ["cat", "{demo}", "big"],
        ["grep", "absent", "{demo}"],
        ["find", "{demo}", "-name", b"caf\xe9".decode(errors="surrogateescape")],
    ],
)
def test_the_result_is_the_same(ocifs: Ocifs, demo: Path, arguments: list[str]) -> None:
    arguments = [argument.format(demo=demo) for argument in arguments]
    ocifs.run("index", demo)
    ended = fork_server().run(arguments, ocifs.variables(), ocifs.home, 120)
    alone = subprocess.run(
        ocifs.command(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=ocifs.variables(),
        cwd=ocifs.home,
        check=False,
    )
    assert ended == (alone.returncode, alone.stdout, alone.stderr)


def test_environment_directory_and_umask_are_those_of_the_caller(ocifs: Ocifs, demo: Path) -> None:
    before = os.umask(0o027)
    try:
        assert ocifs.run("cp", demo, "/etc/release", "copied", COLUMNS="20").code == 0
        narrow = ocifs.run("ls", "--help", COLUMNS="40").text
    finally:
        os.umask(before)
    assert (ocifs.home / "copied").stat().st_mode & 0o777 == 0o640
    assert max(map(len, narrow.splitlines())) < max(map(len, ocifs.run("ls", "--help").text.splitlines()))


def test_a_command_that_takes_too_long_is_killed(ocifs: Ocifs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        image = f"docker://127.0.0.1:{silent.getsockname()[1]}/silent"
        with pytest.raises(subprocess.TimeoutExpired):
            fork_server().run(["ls", "--tls-verify=false", image], ocifs.variables(), ocifs.home, 2)
        silent.setblocking(False)
        with suppress(BlockingIOError):  # killed before it connected
            connection, _ = silent.accept()
            connection.setblocking(True)
            with connection:
                while connection.recv(1000):  # up to the end of the command
                    pass


@pytest.mark.parametrize(("variable", "fits"), [("COLUMNS", True), ("PYTHONPATH", False), ("LC_ALL", False)])
def test_a_variable_that_the_interpreter_reads_needs_one_of_its_own(ocifs: Ocifs, variable: str, fits: bool) -> None:
    assert fork_server().fits(ocifs.variables(**{variable: "x"})) is fits


def test_the_server_ends_with_the_process_that_uses_it() -> None:
    script = "from tests.cli.fork_server import fork_server; print(fork_server()._process.pid)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not Path("/proc", ran.stdout.strip()).exists()
    assert isinstance(fork_server(), ForkServer)
