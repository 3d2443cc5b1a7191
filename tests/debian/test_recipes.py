"""The programs of docs/guides/recipes.md, each with a Debian image on a mount, where the machine has the program."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ocifs

_NSPAWN = "systemd-nspawn --quiet --register=no --keep-unit --directory"
"""On a machine without systemd as init, it can register no machine."""

_VERSION = "cat /etc/debian_version"
_RECIPES = {
    "chroot": f"chroot mnt {_VERSION}",
    "unshare": f"unshare --fork --pid --mount --root=mnt {_VERSION}",
    "bwrap": f"bwrap --unshare-all --ro-bind mnt / --proc /proc --dev /dev {_VERSION}",
    "nspawn, read-only": f"{_NSPAWN} mnt --read-only {_VERSION}",
    "nspawn, writable": f"{_NSPAWN} mnt --volatile=overlay sh -c 'touch /etc/new && {_VERSION}'",
    "nspawn, private users": f"{_NSPAWN} mnt --read-only --private-users=pick {_VERSION}",
    "overlay": (
        "mkdir upper work root && mount -t overlay -o lowerdir=mnt,upperdir=upper,workdir=work overlay root && "
        f"chroot root sh -c 'touch /etc/new && {_VERSION}'; umount root; test -f upper/etc/new"
    ),
}
_ONLY_EROFS = {"nspawn, private users"}


@pytest.fixture(scope="module", params=["erofs", "fuse"])
def place(
    request: pytest.FixtureRequest,
    session_ocifs: Ocifs,
    debian: Path,
    root: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Path]]:
    """An engine, and a directory in which it has mounted the image on `mnt`."""
    engine = request.param
    request.getfixturevalue(engine)
    directory = tmp_path_factory.mktemp("recipes")
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    with session_ocifs.mounted(f"{debian}:base", "--engine", engine, "--allow-other", at=mountpoint):
        yield engine, directory


@pytest.mark.parametrize("name", _RECIPES)
def test_runs_a_program_of_the_image(place: tuple[str, Path], name: str) -> None:
    engine, directory = place
    recipe = _RECIPES[name]
    program = shlex.split(recipe)[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing")
    if name in _ONLY_EROFS and engine == "fuse":
        pytest.skip("an idmapped mount of FUSE needs the daemon's support")
    ran = subprocess.run(
        recipe,
        shell=True,
        cwd=directory,
        env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran
    assert ran.stdout.split(".")[0].isdigit(), ran
