"""A daemon that hangs (SIGSTOP): its mount is listed, replaced and unmounted without a look into it.

Each command has the time that `Ocifs.run` gives it; one that asks the daemon never ends.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, write_layout
from tests.mounted.test_lifecycle import daemon_of, listed


@contextmanager
def hung(ocifs: Ocifs, image: Path, at: Path | None = None) -> Iterator[tuple[Path, int]]:
    """Mount an image; stop its daemon, and let it go on at the end."""
    with ocifs.mounted(image, at=at) as mountpoint:
        daemon = daemon_of(ocifs)
        os.kill(daemon, signal.SIGSTOP)
        try:
            yield mountpoint, daemon
        finally:
            go_on(daemon)


def go_on(daemon: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(daemon, signal.SIGCONT)


def link_to(mountpoint: Path) -> str:
    link = mountpoint.parent / "link"
    link.symlink_to(mountpoint)
    return str(link)


_NAMES: dict[str, Callable[[Path], str]] = {
    "by its path": str,
    "by a relative path": lambda mountpoint: f"./{mountpoint.name}/.",
    "by a path through its parent": lambda mountpoint: f"{mountpoint.parent}/../home/{mountpoint.name}",
    "by a symlink": link_to,
}


@pytest.mark.parametrize("name", _NAMES)
def test_it_is_detached(ocifs: Ocifs, small: Path, name: str) -> None:
    with hung(ocifs, small) as (mountpoint, _):
        ocifs.output("umount", "--lazy", _NAMES[name](mountpoint))
        assert os.listdir(mountpoint) == []


def test_it_is_detached_with_all_others(ocifs: Ocifs, small: Path) -> None:
    with hung(ocifs, small) as (mountpoint, _), ocifs.mounted(small) as other:
        ocifs.output("umount", "--all", "--lazy")
        assert os.listdir(mountpoint) == os.listdir(other) == []


def test_it_is_detached_from_within(ocifs: Ocifs, small: Path) -> None:
    with hung(ocifs, small) as (mountpoint, _):
        umount = shlex.join(ocifs.command("umount", "--lazy", "."))
        # The shell enters it by what the kernel has cached, and Python must not look for modules there.
        variables = ocifs.variables(PYTHONSAFEPATH="1")
        subprocess.run(["sh", "-c", f"cd {mountpoint} && {umount}"], env=variables, check=True, timeout=60)
        assert os.listdir(mountpoint) == []


@pytest.mark.parametrize("engine", ["fuse"], indirect=True)  # umount waits ten seconds for the process
def test_umount_ends_in_time_and_names_the_way_out(ocifs: Ocifs, small: Path) -> None:
    with hung(ocifs, small) as (mountpoint, daemon):
        result = ocifs.run("umount", mountpoint)
        assert (result.code, result.out) == (7, b"")
        unmounted = f"ocifs: {mountpoint} is unmounted, but its daemon {daemon} still runs"
        # Another test's mount namespace may have a copy of the mount.
        assert result.err.startswith(
            (f"{unmounted}: `kill -KILL {daemon}` ends it; --lazy does not wait", f"{unmounted}, k")
        )


def test_it_is_listed(ocifs: Ocifs, small: Path) -> None:
    with hung(ocifs, small) as (mountpoint, daemon):
        assert [(each["mountpoint"], each["pid"], each["state"]) for each in listed(ocifs)] == [
            (str(mountpoint), daemon, "mounted")
        ]
        assert str(mountpoint) in ocifs.output("mounts", "-v")


def test_nothing_is_mounted_over_it(ocifs: Ocifs, small: Path) -> None:
    with hung(ocifs, small) as (mountpoint, _):
        result = ocifs.run("mount", small, mountpoint)
        assert (result.code, result.out) == (7, b"")
        assert "is already a mountpoint" in result.err
        assert "--replace" in result.err


def test_it_is_replaced_and_leaves_the_new_mount_alone_when_it_goes_on(ocifs: Ocifs, small: Path) -> None:
    with hung(ocifs, small) as (mountpoint, daemon):
        ocifs.output("mount", "--replace", small, mountpoint)
        states = {each["pid"]: each["state"] for each in listed(ocifs)}
        assert states.pop(daemon) == "elsewhere"
        assert [*states.values()] == ["mounted"]
        os.kill(daemon, signal.SIGCONT)
        while Path(f"/proc/{daemon}").exists():
            time.sleep(0.02)
        assert (mountpoint / "hello").read_bytes() == b"hello\n"
        ocifs.output("umount", mountpoint)


def test_a_mount_that_would_hide_what_is_needed_is_refused(ocifs: Ocifs, small: Path) -> None:
    with hung(ocifs, small) as (mountpoint, _):
        mount = shlex.join(ocifs.command("mount", "--replace", small, mountpoint))
        script = ["sh", "-c", f"cd {mountpoint} && {mount}"]
        variables = ocifs.variables(PYTHONSAFEPATH="1")
        ran = subprocess.run(script, env=variables, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 7
        assert "would hide the current directory" in ran.stderr


def test_a_bundle_is_detached(ocifs: Ocifs, small: Path) -> None:
    bundle = ocifs.home / "bundle"
    ocifs.output("bundle", "--rootfs", "overlay", "--args", "sh", small, bundle)
    daemon = next(each["pid"] for each in listed(ocifs))
    assert isinstance(daemon, int)
    os.kill(daemon, signal.SIGSTOP)
    try:
        ocifs.output("umount", "--lazy", bundle)
        assert os.listdir(bundle / "rootfs") == []
    finally:
        go_on(daemon)


@pytest.mark.parametrize("options", [["--args", "sh"], ["--remount"]])
def test_no_bundle_is_made_on_it(ocifs: Ocifs, small: Path, options: list[str]) -> None:
    with hung(ocifs, small) as (mountpoint, _):
        result = ocifs.run("bundle", *options, small, mountpoint)
        assert (result.code, result.out) == (7, b"")
        assert result.err.endswith("): name another directory\n")


def test_an_ordinary_user_detaches_it(user: Ocifs) -> None:
    with hung(user, write_layout(user.home / "image", Image())) as (mountpoint, _):
        assert len(listed(user)) == 1
        user.output("umount", "--lazy", mountpoint)
        assert os.listdir(mountpoint) == []
