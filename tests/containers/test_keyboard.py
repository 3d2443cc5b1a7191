"""Keys on a terminal: with -t they are bytes for the container, without it the terminal's signals are forwarded."""

import fcntl
import os
import struct
import termios
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.containers.test_run import Terminal

pytestmark = pytest.mark.usefixtures("root", "runc")

_CTRL_C, _CTRL_BACKSLASH, _CTRL_Z, _CTRL_D = b"\x03", b"\x1c", b"\x1a", b"\x04"
_TRAPS = (
    "trap 'echo got int' INT; trap 'echo got quit' QUIT; trap 'echo got stop' TSTP; trap 'echo got size' WINCH; "
    "trap 'exit 7' USR1; echo ready; while :; do sleep 0.02; done"
)


def type_and_see(terminal: Terminal, keys: bytes, text: bytes) -> None:
    os.write(terminal.ours, keys)
    assert text in terminal.read_until(text)


@pytest.mark.parametrize("options", [[], ["-it"]], ids=["forwarded", "-it"])
def test_a_command_with_handlers_sees_every_key(ocifs: Ocifs, programs: Path, runtime: str, options: list[str]) -> None:
    terminal = Terminal(ocifs, "run", "--runtime", runtime, *options, programs, "sh", "-c", _TRAPS)
    assert b"ready" in terminal.read_until(b"ready\r\n")
    for keys, text in ((_CTRL_C, b"got int"), (_CTRL_BACKSLASH, b"got quit"), (_CTRL_Z, b"got stop")):
        type_and_see(terminal, keys, text)
    if options:
        fcntl.ioctl(terminal.ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        assert b"got size" in terminal.read_until(b"got size")
    terminal.process.send_signal(10)  # SIGUSR1: `ocifs run` was not stopped by Ctrl-Z
    terminal.read_until(b"nothing more")
    assert terminal.process.wait(timeout=30) == 7
    os.close(terminal.ours)


@pytest.mark.parametrize(("keys", "status"), [(_CTRL_C, 130), (_CTRL_BACKSLASH, 131)])
def test_a_command_without_handlers_ends(ocifs: Ocifs, programs: Path, keys: bytes, status: int) -> None:
    """In podman it does not: PID 1 ignores a signal that it does not handle."""
    terminal = Terminal(ocifs, "run", programs, "sh", "-c", "echo ready; exec sleep 1000")
    terminal.read_until(b"ready\r\n")
    os.write(terminal.ours, keys)
    assert terminal.process.wait(timeout=30) == status
    os.close(terminal.ours)


def test_with_an_init_it_ends_on_a_terminal_too(ocifs: Ocifs, programs: Path) -> None:
    if not any(os.path.exists(f"/usr/bin/{name}") for name in ("catatonit", "tini-static")):
        pytest.skip("neither catatonit nor tini-static is installed")
    terminal = Terminal(ocifs, "run", "-it", "--init", programs, "sh", "-c", "echo ready; exec sleep 1000")
    terminal.read_until(b"ready\r\n")
    os.write(terminal.ours, _CTRL_C)
    assert terminal.process.wait(timeout=30) == 130
    os.close(terminal.ours)


def test_only_with_i_is_a_terminal_read(ocifs: Ocifs, programs: Path) -> None:
    terminal = Terminal(ocifs, "run", "-i", programs, "sh", "-c", "test -t 0 || echo no; echo ready; cat; echo over")
    terminal.read_until(b"ready\r\n")
    type_and_see(terminal, b"typed\n" + _CTRL_D, b"typed\r\ntyped\r\nover")
    assert terminal.process.wait(timeout=30) == 0
    os.close(terminal.ours)
    terminal = Terminal(ocifs, "run", programs, "sh", "-c", "cat; echo over")
    assert b"over" in terminal.read_until(b"over")
    assert terminal.process.wait(timeout=30) == 0
    os.close(terminal.ours)


def test_a_window_has_the_size_of_the_terminal(ocifs: Ocifs, programs: Path) -> None:
    terminal = Terminal(ocifs, "run", "-it", programs, "sh", "-c", "echo ready; read x; stat -c %N /proc/self/fd/0")
    terminal.read_until(b"ready\r\n")
    type_and_see(terminal, b"\n", b"/dev/pts/0")
    assert terminal.process.wait(timeout=30) == 0
    os.close(terminal.ours)
