"""mount(8) with entries of fstab(5), in a mount namespace with `mount.ocifs` in /sbin.

HOME is absent, and where it matters PATH too, as at boot.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, tar

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shell(ocifs: Ocifs, small: Path, tmp_path: Path, root: None, engine: str) -> Shell:
    """Run a script with these entries in $fstab, in which @ stands for further options."""
    helpers = install(tmp_path / "sbin", ocifs)
    image = f"{small}:latest"
    first, second = ocifs.mountpoint(), ocifs.mountpoint()
    options = f"engine={engine},cache-dir={ocifs.cache}"

    def run(script: str, more: str = "nofail") -> "subprocess.CompletedProcess[str]":
        fstab = tmp_path / "fstab"
        fstab.write_text(
            f"{image} {first} ocifs {options},{more} 0 0\n{image} {second} fuse.ocifs {options},noauto,user 0 0\n"
        )
        return run_with(helpers, f"first={first} second={second} fstab={fstab} image={image}\n{script}")

    return run


def install(place: Path, ocifs: Ocifs) -> Path:
    """Make a directory with the helpers of mount(8), which keep to the runtime directory of the test."""
    place.mkdir()
    helper = place / "mount.ocifs"
    module = f"{ocifs.interpreter} -m ocifs.cli.mount_helper"
    packages = ocifs.environment.get("PYTHONPATH", str(Path(__file__).parents[2]))
    helper.write_text(f'#!/bin/sh\nXDG_RUNTIME_DIR={ocifs.runtime} PYTHONPATH={packages} exec {module} "$@"\n')
    helper.chmod(0o755)
    (place / "mount.fuse.ocifs").symlink_to("mount.ocifs")
    return place


def run_with(helpers: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script in a mount namespace in which the helpers are in /sbin, and /run is empty."""
    sbin = os.path.realpath("/sbin")
    prepare = f"mount -t overlay -o lowerdir={helpers}:{sbin} overlay {sbin}; mount -t tmpfs tmpfs /run\n"
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", prepare + script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_mounts_what_fstab_has_however_often(shell: Shell, ocifs: Ocifs) -> None:
    ran = shell(
        "mount=$(command -v mount); env -i $mount -T $fstab -a; mount -T $fstab -a; cat $first/hello; ls $second\n"
        "mount -T $fstab $second; findmnt -no OPTIONS $second | grep -o noexec; cat $second/hello\n"
        "mount -T $fstab -o remount $first; umount $first; umount $second\n"
        "ls $first $second | grep hello || echo none\n"
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    assert ran.stdout == "hello\nnoexec\nhello\nnone\n"
    assert ocifs.leftovers() == []


def test_a_wrong_option_and_a_missing_image_are_named(shell: Shell, ocifs: Ocifs) -> None:
    wrong = shell("mount -T $fstab $first", "subvol=@")
    assert (wrong.returncode, wrong.stderr) == (1, "ocifs: unknown mount option 'subvol': see `ocifs help mount`\n")
    missing = shell("mount -t ocifs /missing $first")
    assert missing.returncode == 32
    assert missing.stderr.startswith("ocifs: no such file or directory: '/missing'")
    changed = shell("mount -T $fstab $first; mount -T $fstab -o remount,noexec $first || echo $?; umount $first")
    assert changed.stdout == "32\n"
    assert "is mounted with other options (noexec)" in changed.stderr
    assert shell("mount -f -T $fstab $first; mount -s -T $fstab $first; umount $first", "subvol=@").returncode == 1
    assert shell("mount -s -T $fstab $first; umount $first", "subvol=@").returncode == 0
    assert ocifs.leftovers() == []


@pytest.mark.parametrize("engine", ["fuse"], indirect=True)
def test_an_ordinary_user_mounts_what_fstab_allows(user: Ocifs, root: None, tmp_path: Path, engine: str) -> None:
    members = [directory(b"./", mode=0o755), file(b"hello", b"hello\n")]
    image = write_layout(user.home / "image", Image(layers=(Layer(tar(members)),)))
    mountpoint = user.mountpoint()
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{image} {mountpoint} ocifs noauto,user,cache-dir={user.cache} 0 0\n")
    become = " ".join(user.become)
    ran = run_with(
        install(user.home / "sbin", user),
        f"mount --bind {fstab} /etc/fstab\n{become} mount {mountpoint}; {become} cat {mountpoint}/hello\n"
        f"findmnt -no OPTIONS {mountpoint} | grep -o nosuid,nodev,noexec; {become} umount {mountpoint}\n",
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    assert ran.stdout == "hello\nnosuid,nodev,noexec\n"


def test_a_map_of_autofs_mounts_on_access_and_unmounts_when_idle(
    ocifs: Ocifs, small: Path, root: None, tmp_path: Path, engine: str
) -> None:
    if shutil.which("automount") is None:
        pytest.skip("automount is missing: it is in the Debian package autofs")
    place = tmp_path / "auto"
    (tmp_path / "map").write_text(
        f"* -fstype=ocifs,engine={engine},cache-dir={ocifs.cache} :{small.parent}/&\\:latest\n"
    )
    (tmp_path / "master").write_text(f"{place} {tmp_path}/map --timeout=1\n")
    ran = run_with(
        install(tmp_path / "sbin", ocifs),
        f"automount --foreground --pid-file {tmp_path}/pid {tmp_path}/master & daemon=$!\n"
        f"while ! grep -q ' {place} .* autofs ' /proc/self/mountinfo; do sleep 0.1; done\n"
        f"timeout 60 cat {place}/small/hello\n"
        f"while grep -q ' {place}/small ' /proc/self/mountinfo; do sleep 0.1; done; kill -KILL $daemon; wait\n",
    )
    assert (ran.returncode, ran.stdout) == (0, "hello\n"), ran
    assert ocifs.leftovers() == []
