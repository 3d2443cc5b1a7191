"""A new user's first hour: sixty commands typed from habit work, or the answer says what to type instead."""

import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.docs.conftest import UNMOUNT_ALL, World

_PATIENCE = 120.0
_PROMPT = "READY> "
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

HOUR = [
    # What is this?
    ("ocifs", "Look inside:"),
    ("ocifs --help", "Mount and inspect OCI images"),
    ("ocifs -V", r"ocifs \d"),
    ("ocifs version", "use `ocifs --version`"),
    ("ocifs help", "Compare and audit:"),
    ("ocifs help mount", "MOUNTPOINT"),
    ("ocifs mount --help", "Registry, cache and limits:"),
    ("ocifs moutn", "did you mean mount"),
    ("ocifs list", "`ocifs tags IMAGE`"),
    ("ocifs images", "`ocifs tags IMAGE`"),
    ("ocifs ps", "podman"),
    ("ocifs pull debian:12", "docker://HOST/REPOSITORY:TAG"),
    # What is in the image?
    ("ocifs ls", "missing argument IMAGE"),
    ("ocifs ls ./nothing", "no such file or directory"),
    ("ocifs ls debian", r"\bbin\b"),
    ("ocifs ls debian:nothing", "base"),
    ("ocifs ls debian:latest /etc/", "passwd"),
    ("ocifs ls -la debian:latest:/etc", "passwd"),
    ("ocifs ls -lh debian:latest /usr/bin/git", "M"),
    ("ocifs ls debian:latest '/etc/*.conf'", r"/etc/\w+\.conf"),
    ("ocifs ls debian:latest /ect", "no such file or directory"),
    ("ocifs inspect debian:latest", "Digest:"),
    ("ocifs inspect --all debian", "tools"),
    ("ocifs manifest debian:latest", "ocifs inspect --raw IMAGE"),
    ("ocifs history debian:latest", "CREATED BY"),
    ("ocifs layers debian:latest", "ocifs inspect --json IMAGE"),
    ("ocifs tree -L 1 debian:latest /usr", "── bin"),
    ("ocifs du -sh debian:latest /usr", r"M\s+/usr"),
    ("ocifs stat debian:latest /etc/passwd", "Access:"),
    ("ocifs cat debian:tools /etc/debian_version", r"\d"),
    ("ocifs cat debian:tools:/etc/debian_version", r"\d"),
    ("ocifs less debian:latest /etc/passwd", "a pipe"),
    ("ocifs head -2 debian:latest /etc/passwd", "root:"),
    ("ocifs tail -n1 debian:latest /etc/passwd", ":"),
    ("ocifs find debian:latest -name passwd", "/etc/passwd"),
    ("ocifs find debian:latest /etc -name '*.conf' -exec cat {} \\;", "-print0"),
    ("ocifs grep root debian:latest /etc/passwd", "root:x:0:0"),
    ("ocifs grep -rn '^PRETTY' debian:latest /usr/lib/os-release", "PRETTY_NAME"),
    ("ocifs cp debian:latest:/etc/passwd .", None),
    ("ocifs cp debian:latest /etc/passwd /etc/group .", None),
    ("wc -l group", r"\d+ group"),
    ("ocifs extract debian:latest /etc", "ocifs cp IMAGE PATH"),
    # What changed, what is wasted?
    ("ocifs diff debian:latest~1 debian:latest | head -3", "added|changed|removed"),
    ("ocifs which debian:latest /etc/motd", "layer 0"),
    ("ocifs blame debian:latest /etc/motd", "layer 0"),
    ("ocifs waste debian:latest | tail -n 5", "MiB"),
    ("ocifs dive debian:latest", "ocifs explore IMAGE"),
    ("ocifs verify sample", "checks passed"),
    # Mount it.
    ("ocifs mount debian:latest mnt", "mkdir|make the directory"),
    ("mkdir mnt", None),
    ("ocifs mount debian:latest mnt", None),
    ("ls mnt", r"\busr\b"),
    ("ocifs mount debian:latest mnt", "already a mountpoint"),
    ("ocifs mounts", r"debi\S*:latest"),
    ("touch mnt/new", "Read-only file system"),
    ("cd mnt/etc", None),
    ("ocifs umount ..", "leave the directory"),
    ("cd ../..", None),
    ("ocifs unmount mnt", "umount"),
    ("ocifs umount mnt", None),
    ("ocifs umount mnt", "not an ocifs mount"),
    # Run it.
    ("ocifs run debian:tools echo hello", "hello"),
    ("ocifs run --rm -it debian:tools sh -c 'echo $((6*7))'", "42"),
    ("ocifs run debian:tools ls -l /", "usr"),
    ("ocifs run -v $PWD:/here debian:tools ls /here", "sample"),
    ("ocifs run -d debian:tools sleep 1", "podman run -d"),
    ("ocifs run -p 80:80 debian:tools", "podman run -p"),
    ("ocifs exec debian sh", "podman"),
    ("ocifs run debian:tools nosuchprogram", "nosuchprogram"),
    # Take it along, and clean up.
    ("ocifs export sample rootfs", "--to-dir"),
    ("ocifs export sample --to-dir rootfs", None),
    ("ocifs unpack sample rootfs", "ocifs export IMAGE --to-dir DIR"),
    ("ocifs cache ls | tail -n 1", "entries"),
    ("ocifs prune", "ocifs cache prune"),
    ("ocifs cache clear", "freed"),
]
"""What is typed, and a regular expression in what the terminal shows then; None: no message."""


class Terminal:
    """An interactive bash on a terminal of 120 columns."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._screen, inner = pty.openpty()
        self.shell = subprocess.Popen(
            ["unshare", "--mount", "bash", "--noprofile", "--norc", "-i"],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=directory,
            env={**environment, "PS1": _PROMPT, "TERM": "xterm", "COLUMNS": "120", "HISTFILE": ""},
            start_new_session=True,
        )
        os.close(inner)
        self._until_prompt()

    def type(self, line: str) -> str:
        """Type a line; return what the terminal shows up to the next prompt, without the line itself."""
        os.write(self._screen, line.encode() + b"\n")
        return self._until_prompt().partition("\n")[2]

    def close(self) -> None:
        self.shell.kill()
        self.shell.wait()
        os.close(self._screen)

    def _until_prompt(self) -> str:
        shown = ""
        deadline = time.monotonic() + _PATIENCE
        while not shown.endswith(_PROMPT):
            assert time.monotonic() < deadline, shown
            shown = _CONTROL.sub("", shown + os.read(self._screen, 1 << 16).decode(errors="replace"))
        return shown.removesuffix(_PROMPT).replace("\r\n", "\n")


@pytest.fixture
def terminal(world: World, root: None, runc: None) -> Iterator[Terminal]:
    made = Terminal(world.home, world.environment)
    made.type(UNMOUNT_ALL)
    yield made
    made.type(UNMOUNT_ALL)
    made.close()


def test_commands_from_habit(terminal: Terminal) -> None:
    assert len(HOUR) >= 60
    wrong = []
    for typed, expected in HOUR:
        shown = terminal.type(typed)
        if ("ocifs: " in shown) if expected is None else re.search(expected, shown) is None:
            wrong.append(f"$ {typed}\n{shown}    expected: {expected}")
        assert "Traceback" not in shown
    assert not wrong, "\n".join(wrong)
