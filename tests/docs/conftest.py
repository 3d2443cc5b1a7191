"""A directory as the documents assume it: the images `debian` and `sample`, and `ocifs` on the PATH."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.command import Ocifs

ROOT = Path(__file__).parents[2]
UNMOUNT_ALL = "awk '/ - (fuse.ocifs|erofs) / {print $5}' /proc/self/mountinfo | xargs -r -n 1 umount -l"
"""For a shell in a mount namespace of its own, which other tests' mounts have come to as well."""


@dataclass(frozen=True)
class World:
    """A home directory, which is the current directory of the commands in it, and their environment."""

    home: Path
    environment: Mapping[str, str]


@pytest.fixture(scope="session")
def indexed_debian(session_ocifs: Ocifs, debian: Path) -> Path:
    """Return a cache with the indexes and trees of the Debian image."""
    for tag in ("latest", "tools"):
        session_ocifs.output("index", f"{debian}:{tag}")
    return session_ocifs.cache


@pytest.fixture
def world(ocifs: Ocifs, debian: Path, indexed_debian: Path, tmp_path: Path) -> World:
    """A directory with the images and the scripts."""
    made = furnish(ocifs, tmp_path / "bin", indexed_debian)
    (made.home / "debian").symlink_to(debian)
    return made


def furnish(ocifs: Ocifs, programs: Path, cache: Path) -> World:
    """Make a world, but for the image `debian`, in the home directory of a command, and `ocifs` in `programs`."""
    command = programs / "ocifs"
    programs.mkdir()
    command.write_text(f'#!/bin/sh\nexec {ocifs.interpreter} -c "from ocifs.cli.main import main; main()" "$@"\n')
    command.chmod(0o755)
    home = ocifs.home
    (home / "scripts").symlink_to(ROOT / "scripts")
    subprocess.run([sys.executable, ROOT / "scripts/sample_image.py", home / "sample"], check=True)
    shutil.copytree(cache, home / ".cache" / "ocifs")
    environment = ocifs.variables(
        PATH=f"{programs}:{os.environ['PATH']}",
        HOME=str(home),
        XDG_CACHE_HOME=str(home / ".cache"),
        COLUMNS="120",
    )
    return World(home, environment)


@pytest.fixture
def user_world(user: Ocifs, debian: Path, root: None) -> World:
    """The same for an ordinary user, without anything in the cache."""
    home = user.home
    command = home / "bin" / "ocifs"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(user.command()[len(user.become) :])} "$@"\n')
    command.chmod(0o755)
    subprocess.run([sys.executable, ROOT / "scripts/sample_image.py", home / "sample"], check=True)
    copied = ["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{debian}:base", f"oci:{home}/debian:base"]
    subprocess.run(copied, check=True)
    subprocess.run(["chmod", "-R", "a+rX", home / "debian"], check=True)
    environment = user.variables(PATH=f"{command.parent}:{os.environ['PATH']}", COLUMNS="120")
    return World(home, environment)
