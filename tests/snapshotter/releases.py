"""Releases of containerd and Docker: those of this machine, and those of later Debians, most of them with --full only.

The programs of a later Debian run from the directory into which its packages were unpacked: written in Go, they need
only an older libc. They use the runc of this machine, which does need the new one.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.depth import FULL

_SOON = 60.0
"""Seconds for each command of apt, unless the tests run in full."""
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Release:
    """Where the programs of a release are."""

    directory: Path | None = None
    """The root directory with its files; None: this machine's."""

    def variables(self) -> dict[str, str]:
        """Return the environment in which its programs are found."""
        if self.directory is None:
            return {**os.environ}
        found = ":".join(f"{self.directory}/usr/{each}" for each in ("bin", "sbin"))
        return {**os.environ, "PATH": f"{found}:{os.environ['PATH']}"}

    def program(self, name: str) -> str:
        """Return the path of a program; skip the test if it is missing."""
        path = shutil.which(name, path=self.variables()["PATH"])
        if path is None:
            pytest.skip(f"{name} is missing")
        return path

    def version(self, name: str = "containerd") -> str:
        """Return what a program prints as its version."""
        return subprocess.run([self.program(name), "--version"], capture_output=True, text=True, check=True).stdout


HERE = Release()


def of_debian(suite: str, place: Path, *packages: str, bounded: bool = False) -> Release:
    """Unpack packages of a Debian below `place`, once.

    Skip the test unless it runs in full. If it is `bounded`, skip it only if apt cannot download the packages soon.
    """
    if not (FULL or bounded):
        pytest.skip(f"{', '.join(packages)} of Debian {suite} are for scripts/test --full")
    if not os.path.exists(_KEYRING):
        pytest.skip("Debian's keyring is missing")
    directory = place / f"debian-{suite}"
    for each in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "root"):
        (directory / each).mkdir(parents=True, exist_ok=True)
    (directory / "status").touch()
    (directory / "etc/sources.list").write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main\n")
    names = {"Dir::State": "state", "Dir::State::status": "status", "Dir::Cache": "cache", "Dir::Etc": "etc"}
    apt = ["apt-get", "-q", *(f"--option={name}={directory / path}" for name, path in names.items())]
    apt += ["--option=APT::Sandbox::User=root"]
    try:
        for command in ([*apt, "update"], [*apt, "download", *packages]):
            subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=None if FULL else _SOON)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        if FULL:
            raise
        pytest.skip(f"{', '.join(packages)} of Debian {suite} cannot be downloaded: {error}")
    for archive in directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", archive, directory / "root"], check=True)
        archive.unlink()
    return Release(directory / "root")


def _mirror() -> str:
    """Return the mirror of Debian that this machine uses."""
    ran = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not ran.stdout:
        pytest.skip("apt knows no mirror of Debian: run apt-get update")
    return ran.stdout.split()[0]
