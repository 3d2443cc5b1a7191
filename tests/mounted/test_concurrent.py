"""Commands that mount on, replace or unmount the same mountpoint at the same time."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ocifs.mount.mountinfo import mount_table
from tests.cli.command import Argument, Ocifs
from tests.depth import depth
from tests.images import Image, write_layout
from tests.mounted.test_lifecycle import listed

_AT_ONCE = depth(4, 12)


def at_once(ocifs: Ocifs, *commands: Sequence[Argument]) -> list[tuple[int, str]]:
    """Run commands at the same time; return exit status and stderr of each."""
    processes = [ocifs.start(*command) for command in commands]
    ended = []
    for process in processes:
        _, said = process.communicate(timeout=120)
        ended.append((process.returncode, said.decode()))
    return ended


def mounts_on(mountpoint: Path) -> int:
    return sum(mount.mountpoint == str(mountpoint) for mount in mount_table())


def test_one_of_several_mounts_succeeds(ocifs: Ocifs, small: Path) -> None:
    ocifs.output("index", small)
    mountpoint = ocifs.mountpoint()
    ended = at_once(ocifs, *[("mount", small, mountpoint)] * _AT_ONCE)
    assert Counter(code for code, _ in ended) == {0: 1, 7: _AT_ONCE - 1}
    for code, said in ended:
        if code:
            assert said.startswith(f"ocifs: {mountpoint} is already a mountpoint (")
            assert said.endswith(f"): `ocifs umount {mountpoint}` first, or use --replace\n")
    assert mounts_on(mountpoint) == 1
    assert len(listed(ocifs)) == 1
    ocifs.output("umount", mountpoint)
    assert ocifs.leftovers() == []


def test_by_another_name_it_is_the_same_mountpoint(ocifs: Ocifs, small: Path) -> None:
    ocifs.output("index", small)
    mountpoint = ocifs.mountpoint()
    link = ocifs.home / "link"
    link.symlink_to(mountpoint)
    ended = at_once(ocifs, ["mount", small, mountpoint], ["mount", small, link], ["mount", small, mountpoint.name])
    assert sorted(code for code, _ in ended) == [0, 7, 7]
    assert mounts_on(mountpoint) == 1
    ocifs.output("umount", mountpoint)


def test_each_replacement_succeeds_and_one_mount_is_left(ocifs: Ocifs, small: Path) -> None:
    ocifs.output("index", small)
    mountpoint = ocifs.mountpoint()
    ended = at_once(ocifs, *[("mount", "--replace", small, mountpoint)] * _AT_ONCE)
    assert ended == [(0, "")] * _AT_ONCE
    assert mounts_on(mountpoint) == 1
    assert (mountpoint / "hello").read_bytes() == b"hello\n"
    ocifs.output("umount", mountpoint)
    assert mounts_on(mountpoint) == 0
    assert ocifs.leftovers() == []


def test_unmounting_while_others_mount_leaves_what_the_last_one_did(ocifs: Ocifs, small: Path) -> None:
    ocifs.output("index", small)
    with ocifs.mounted(small) as mountpoint:
        replacing: list[Argument] = ["mount", "--replace", small, mountpoint]
        ended = at_once(ocifs, replacing, ["umount", mountpoint], replacing)
        assert [ended[0], ended[2]] == [(0, "")] * 2
        assert ended[1][0] in {0, 7}
        assert mounts_on(mountpoint) <= 1
        assert len(listed(ocifs)) == mounts_on(mountpoint)
        ocifs.clear(mountpoint)
    assert ocifs.leftovers() == []


def test_one_of_several_remounts_of_a_bundle_succeeds(ocifs: Ocifs, root: None) -> None:
    image = write_layout(ocifs.home / "image", Image())
    bundle = ocifs.home / "bundle"
    ocifs.output("bundle", "--rootfs", "overlay", "--args", "sh", image, bundle)
    ocifs.output("umount", bundle)
    ended = at_once(ocifs, *[("bundle", "--remount", image, bundle)] * 3)
    assert sorted(code for code, _ in ended) == [0, 7, 7], ended
    assert all("is mounted: `ocifs umount" in said for code, said in ended if code)
    assert (mounts_on(bundle / "rootfs"), mounts_on(bundle / "lower")) == (1, 1)
    ocifs.output("umount", bundle)
    assert ocifs.leftovers() == []


def test_one_of_several_bundles_in_one_place_is_made(ocifs: Ocifs, root: None) -> None:
    image = write_layout(ocifs.home / "image", Image())
    bundle = ocifs.home / "bundle"
    ended = at_once(ocifs, *[("bundle", "--rootfs", "overlay", "--args", "sh", image, bundle)] * 3)
    assert sum(code == 0 for code, _ in ended) == 1, ended
    assert all(said.count("\n") == 1 for code, said in ended if code)
    assert (mounts_on(bundle / "rootfs"), mounts_on(bundle / "lower")) == (1, 1)
    ocifs.output("umount", bundle)
    assert ocifs.leftovers() == []
