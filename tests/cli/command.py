"""The command line as a user runs it: in a process of its own, here with a cache and a runtime directory of its own."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from ocifs.mount.mountinfo import mount_at, mount_table
from tests.cli.fork_server import fork_server
from tests.depth import FULL

_PATIENCE = 30.0
_MAIN = "from ocifs.cli.main import main; main()"

Argument = str | Path


class Result(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode(errors="surrogateescape")


class _Started(subprocess.Popen[bytes]):
    """A process that is killed if a test fails before it ends: leaving its `with` block waits for it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
        super().__exit__(kind, error, trace)


@dataclass(frozen=True)
class Ocifs:
    """Runs `ocifs`; all that it leaves behind lies below `home`."""

    home: Path
    interpreter: str = sys.executable
    become: tuple[str, ...] = ()
    """What runs a command as another user."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.home / "cache" / "ocifs"

    @property
    def runtime(self) -> Path:
        return self.home / "run"

    @property
    def temporary(self) -> Path:
        return self.home / "tmp"

    @property
    def log(self) -> Path:
        return self.runtime / "ocifs" / "ocifs.log"

    def command(self, *arguments: Argument) -> list[str]:
        return [*self.become, self.interpreter, "-c", _MAIN, *map(str, arguments)]

    def variables(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OCIFS_", "PYTHONUNBUF"))}
        own = {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "DOCKER_CONFIG": str(self.home / "docker"),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "TMPDIR": str(self.temporary),
            "OCIFS_NO_SERVICE": "1",  # a service of this machine
        }
        return {**clean, **own, **self.environment, **more}

    def run(self, *arguments: Argument, **variables: str) -> Result:
        """Run to the end, and read the output to its end: no process may keep it open.

        With --full, and where a variable needs it, the process starts with an interpreter of its own.
        """
        environment = self.variables(**variables)
        if not FULL and self.interpreter == sys.executable and not self.become and fork_server().fits(environment):
            ended = fork_server().run(list(map(str, arguments)), environment, self.home, 120)
            return Result(ended.code, ended.out, ended.err.decode())
        ran = subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            cwd=self.home,
            timeout=120,
            check=False,
        )
        return Result(ran.returncode, ran.stdout, ran.stderr.decode())

    def start(self, *arguments: Argument) -> "subprocess.Popen[bytes]":
        return _Started(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.variables(),
            cwd=self.home,
        )

    def output(self, *arguments: Argument, **variables: str) -> str:
        """Return what it prints; it must do well, and have nothing to complain of."""
        result = self.run(*arguments, **variables)
        assert (result.code, result.err) == (0, ""), result
        return result.text

    def complaint(self, code: int, *arguments: Argument, **variables: str) -> str:
        """Return the one line that it ends with, failing with `code`, and leaving nothing mounted or running."""
        result = self.run(*arguments, **variables)
        assert (result.code, result.out) == (code, b""), result
        assert result.err.startswith("ocifs: "), result
        assert result.err.endswith("\n"), result
        assert result.err.count("\n") == 1, result
        assert self.leftovers() == []
        return result.err.removeprefix("ocifs: ").rstrip()

    def mountpoint(self) -> Path:
        """Make a directory to mount on."""
        made = Path(tempfile.mkdtemp(dir=self.home, prefix="mnt-"))
        os.chown(made, self.home.stat().st_uid, -1)
        return made

    @contextmanager
    def mounted(self, image: Argument, *options: str, at: Path | None = None) -> Iterator[Path]:
        """Mount; unmount at the end whatever happened."""
        mountpoint = at or self.mountpoint()
        result = self.run("mount", *options, image, mountpoint)
        assert result == (0, b"", ""), result
        try:
            yield mountpoint
        finally:
            self.clear(mountpoint)

    def clear(self, mountpoint: Path) -> None:
        """Unmount what is mounted there, be it dead, busy, or about to go."""
        if mount_at(str(mountpoint)):
            unmount = [*self.become, "fusermount3", "-u", "-z", str(mountpoint)]
            ended = subprocess.run(unmount, capture_output=True, text=True, check=False)
            assert ended.returncode == 0 or not mount_at(str(mountpoint)), ended

    def mounts(self) -> list[str]:
        """Return what the kernel has mounted below `home`."""
        return [mount.mountpoint for mount in mount_table() if mount.mountpoint.startswith(f"{self.home}/")]

    def processes(self) -> list[int]:
        """Return the processes that run with this home."""
        mark = b"XDG_RUNTIME_DIR=%b\0" % os.fsencode(self.runtime)
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and mark in _environment_of(process):
                found.append(int(process.name))
        return found

    def leftovers(self) -> list[str]:
        """Return what is still there, a moment being given to processes that are about to end."""
        deadline = time.monotonic() + _PATIENCE
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def _left(self) -> list[str]:
        records = [str(path) for path in self.runtime.glob("ocifs/*.[jt]*")]
        records += [str(path) for place in (self.runtime / "ocifs", self.temporary) for path in place.glob("ocifs-*")]
        return [*self.mounts(), *(f"process {pid}" for pid in self.processes()), *records]


def _environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""
