"""mount(8) with entries of fstab(5), in a mount namespace with `mount.ocifs` in /sbin, and without HOME as at boot."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Ocifs

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shell(ocifs: Ocifs, small: Path, tmp_path: Path, root: None, engine: str) -> Shell:
    """Run a script with these entries in $fstab, in which @ stands for further options."""
    helpers, work, image = tmp_path / "sbin", tmp_path / "work", f"{small}:latest"
    helpers.mkdir()
    work.mkdir()
    helper = helpers / "mount.ocifs"
    helper.write_text(f"#!/bin/sh\nexport XDG_RUNTIME_DIR={ocifs.runtime}\n")
    with helper.open("a") as file:
        file.write(f'PYTHONPATH={os.getcwd()} exec {sys.executable} -m ocifs.cli.mount_helper "$@"\n')
    helper.chmod(0o755)
    (helpers / "mount.fuse.ocifs").symlink_to("mount.ocifs")
    first, second = ocifs.mountpoint(), ocifs.mountpoint()
    options = f"engine={engine},cache-dir={ocifs.cache}"

    def run(script: str, more: str = "nofail") -> "subprocess.CompletedProcess[str]":
        fstab = tmp_path / "fstab"
        fstab.write_text(
            f"{image} {first} ocifs {options},{more} 0 0\n{image} {second} fuse.ocifs {options},noauto,user 0 0\n"
        )
        sbin = os.path.realpath("/sbin")
        overlay = f"lowerdir={helpers}:{sbin}"
        prepare = f"mount -t overlay -o {overlay} overlay {sbin}; mount -t tmpfs tmpfs /run\n"
        values = f"first={first} second={second} fstab={fstab} image={image}\n"
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", prepare + values + script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_mounts_what_fstab_has_however_often(shell: Shell, ocifs: Ocifs) -> None:
    ran = shell(
        "mount -T $fstab -a; mount -T $fstab -a; cat $first/hello; ls $second\n"
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
