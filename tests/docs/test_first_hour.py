"""A new user's first hour: sixty commands typed from habit work, or the answer says what to type instead."""

import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.docs.conftest import UNMOUNT_ALL, World, furnish

_PATIENCE = 120.0
_PROMPT = "READY> "
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

LOOK = [
    # What is this?
    ("ocifs", "Look inside:"),
    ("ocifs --help", "Mount and inspect OCI images"),
    ("ocifs -V", r"ocifs \d"),
    ("ocifs version", "use `ocifs --version`"),
    ("ocifs help", "Compare and audit:"),
    ("ocifs help mount", r"Usage: ocifs mount .*MOUNTPOINT"),
    ("ocifs mount --help", "Registry, cache and limits:"),
    ("ocifs moutn", "did you mean mount"),
    ("ocifs list", "`ocifs tags IMAGE`"),
    ("ocifs images", "`ocifs tags IMAGE`"),
    ("ocifs ps", r"ocifs keeps no containers.*podman"),
    ("ocifs pull debian:12", "docker://HOST/REPOSITORY:TAG"),
    # What is in the image?
    ("ocifs ls", "missing argument IMAGE"),
    ("ocifs ls ./nothing", "no such file or directory"),
    ("ocifs ls debian", r"\bbin\b"),
    ("ocifs ls debian:nothing", r"nothing.*base.*latest"),
    ("ocifs ls debian:latest /etc/", "passwd"),
    ("ocifs ls -la debian:latest:/etc", "passwd"),
    ("ocifs ls -lh debian:latest /usr/bin/git", r"\d\.\dM .*/usr/bin/git\n"),
    ("ocifs ls debian:latest '/etc/*.conf'", r"/etc/\w+\.conf"),
    ("ocifs ls --sort=size debian:latest", "-S sorts by size"),
    ("ocifs ls debian:latest /ect", "no such file or directory"),
    ("ocifs inspect debian:latest", r"Digest: +sha256:[0-9a-f]{64}"),
    ("ocifs inspect --all debian", r"\ntools +linux/\w+ +sha256:"),
    ("ocifs manifest debian:latest", "ocifs inspect --raw IMAGE"),
    ("ocifs history debian:latest", "CREATED BY"),
    ("ocifs layers debian:latest", "ocifs inspect --json IMAGE"),
    ("ocifs tree -L 1 debian:latest /usr", "── bin"),
    ("ocifs du -sh debian:latest /usr", r"M\s+/usr"),
    ("ocifs stat debian:latest /etc/passwd", r"Access: \(0644/-rw-r--r--\)"),
    ("ocifs cat debian:tools /etc/debian_version", r"^1\d\.\d+\n"),
    ("ocifs cat debian:tools:/etc/debian_version", r"^1\d\.\d+\n"),
    ("ocifs less debian:latest /etc/passwd", "a pipe"),
    ("ocifs head -2 debian:latest /etc/passwd", "root:"),
    ("ocifs tail -n1 debian:latest /etc/passwd", r"^[\w-]+:x:\d+:\d+:.*\n$"),
    ("ocifs find debian:latest -name passwd", "/etc/passwd"),
    ("ocifs find debian:latest /etc -name '*.conf' -exec cat {} \\;", "-print0"),
    ("ocifs grep root debian:latest /etc/passwd", "root:x:0:0"),
    ("ocifs grep -rn '^PRETTY' debian:latest /usr/lib/os-release", r"\d+:PRETTY_NAME="),
    ("ocifs cp debian:latest:/etc/passwd .", None),
    ("ocifs cp debian:latest /etc/passwd /etc/group .", None),
    ("wc -l group", r"\d+ group"),
    ("ocifs extract debian:latest /etc", "ocifs cp IMAGE PATH"),
    # What changed, what is wasted?
    ("ocifs diff debian:latest~1 debian:latest | head -3", r"(?m)^(added|changed|removed) +/"),
    ("ocifs which debian:latest /etc/motd", "layer 0"),
    ("ocifs blame debian:latest /etc/motd", "layer 0"),
    ("ocifs waste debian:latest | tail -n 5", r"\d (B|[KM]iB) +\d+ +(removed|replaced) by \d+ +/"),
    ("ocifs dive debian:latest", "ocifs explore IMAGE"),
    ("ocifs verify sample", "checks passed"),
]
USE = [
    # Mount it.
    ("ocifs mount debian:latest mnt", "mkdir|make the directory"),
    ("mkdir mnt", None),
    ("ocifs mount debian:latest mnt", None),
    ("ls mnt", r"\busr\b"),
    ("ocifs mount debian:latest mnt", "already a mountpoint"),
    ("ocifs mounts", r"mnt +\S*:latest +[0-9a-f]{12} +\d+ +mounted"),
    ("touch mnt/new", "Read-only file system"),
    ("cd mnt/etc", None),
    ("ocifs umount ..", "leave the directory"),
    ("cd ../..", None),
    ("ocifs unmount mnt", "did you mean umount"),
    ("ocifs umount mnt", None),
    ("ocifs umount mnt", "not an ocifs mount"),
    # Run it.
    ("ocifs run debian:tools echo hello", r"^hello\n"),
    ("ocifs run --rm -it debian:tools sh -c 'echo $((6*7))'", r"^42\n"),
    ("ocifs run debian:tools ls -l /", r"drwxr-xr-x .* usr\n"),
    ("ocifs run -v $PWD:/here debian:tools ls /here", "sample"),
    ("ocifs run -v $PWD:/here debian:tools /here/build.sh", r"command /here/build.sh does not exist"),
    ("ocifs run -h box debian:tools hostname", r"^box\n"),
    ("ocifs run -h", r"Usage: ocifs run "),
    ("ocifs run --replace --name box debian:tools", "ocifs umount"),
    ("ocifs run -d debian:tools sleep 1", "podman run -d"),
    ("ocifs run -p 80:80 debian:tools", "podman run -p"),
    ("ocifs exec debian sh", r"ocifs keeps no containers.*podman"),
    ("ocifs run debian:tools nosuchprogram", "command nosuchprogram is in no directory"),
    # Take it along, and clean up.
    ("ocifs export sample rootfs", "--to-dir"),
    ("ocifs export sample --to-dir rootfs", None),
    ("ocifs unpack sample rootfs", "ocifs export IMAGE --to-dir DIR"),
    ("ocifs cache ls | tail -n 1", r"^\d+ entries, [\d.]+ [KM]iB"),
    ("ocifs prune", "ocifs cache prune"),
    ("ocifs cache clear", r"^freed [\d.]+ [KM]iB"),
]
"""What is typed, and a regular expression in what the terminal shows then; None: no error. USE needs privileges."""


class Terminal:
    """An interactive bash on a terminal of 120 columns."""

    def __init__(self, directory: Path, environment: Mapping[str, str], become: Sequence[str]) -> None:
        """`become` makes the mount namespace of the shell, and the user."""
        self._screen, inner = pty.openpty()
        self.shell = subprocess.Popen(
            [*become, "bash", "--noprofile", "--norc", "-i"],
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
        return shown.removesuffix(_PROMPT).replace("\r", "")


@contextmanager
def terminal(world: World, become: Sequence[str] = ()) -> Iterator[Terminal]:
    """A shell in a mount namespace of its own."""
    script = f'{UNMOUNT_ALL}; exec "$@"'
    made = Terminal(world.home, world.environment, ["unshare", "--mount", "sh", "-c", script, "sh", *become])
    try:
        yield made
    finally:
        made.close()


def _type(typing: Terminal, table: Sequence[tuple[str, str | None]]) -> list[str]:
    """Type each line; return what the terminal shows where something else is expected."""
    wrong = []
    for typed, expected in table:
        shown = typing.type(typed)
        if re.search("ocifs: (?!warning)", shown) if expected is None else re.search(expected, shown) is None:
            wrong.append(f"$ {typed}\n{shown}    expected: {expected}")
        assert "Traceback" not in shown
    return wrong


def test_commands_from_habit(world: World, root: None, runc: None) -> None:
    with terminal(world) as typing:
        assert len(LOOK + USE) >= 60
        wrong = _type(typing, LOOK + USE)
        typing.type("ocifs umount --all")
    assert not wrong, "\n".join(wrong)


def test_commands_of_an_ordinary_user(user: Ocifs, debian: Path, indexed_debian: Path, root: None, runc: None) -> None:
    if shutil.which("fuse-overlayfs") is None:
        pytest.skip("fuse-overlayfs is missing")
    if subprocess.run([*user.become, "unshare", "--user", "--map-root-user", "true"], check=False).returncode:
        pytest.skip("this machine gives ordinary users no user namespaces")
    world = furnish(user, user.home / ".bin", indexed_debian)
    (world.home / "debian").mkdir()
    parts = [debian / name for name in ("blobs", "index.json", "oci-layout")]
    subprocess.run(["cp", "-r", "--reflink=auto", "-t", world.home / "debian", *parts], check=True)
    subprocess.run(["chown", "-R", "--reference", user.home, user.home], check=True)
    with terminal(world, user.become) as typing:
        wrong = _type(typing, USE)
        typing.type("ocifs umount --all")
    assert not wrong, "\n".join(wrong)
