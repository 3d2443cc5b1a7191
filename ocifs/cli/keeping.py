"""Whether an image is mounted already, as `mount -a`, run twice, and `mount -o remount` expect it to be."""

from ocifs.cli.options import open_image
from ocifs.errors import MountError, printable_path
from ocifs.mount.mountinfo import MountEntry, mount_at
from ocifs.mount.options import MountOptions
from ocifs.mount.record import ListedMount, list_mounts
from ocifs.options import Options


def is_mounted(image: str, real: str, options: Options, mounting: MountOptions) -> bool:
    """Whether an image is mounted on a real path with the same effects, and served.

    A mount of the same reference is kept even if its tag means another image by now. Limits of serving, such as the
    memory, are not compared.

    Raises:
        MountError: The image is mounted, but with other effects.
    """
    mounted = mount_at(real)
    listed = next((each for each in list_mounts() if each.mountpoint == real and each.state == "mounted"), None)
    if mounted is None or listed is None or not listed.is_at(mounted) or not _is_same(image, listed, options):
        return False
    now, wanted = _effects(mounted), _wanted(mounted, mounting)
    if now != wanted:
        changed = ", ".join(sorted(now ^ wanted))
        raise MountError(
            f"{printable_path(real)} is mounted with other options ({changed}): `ocifs umount` it first, or use "
            "--replace"
        )
    return True


def _is_same(image: str, listed: ListedMount, options: Options) -> bool:
    if image == listed.image:
        return True
    with open_image(image, options) as opened:
        return str(opened.digest) == listed.digest


def _effects(mounted: MountEntry) -> set[str]:
    return {"nosuid", "nodev", "noexec", "allow_other"} & set(mounted.options)


def _wanted(mounted: MountEntry, mounting: MountOptions) -> set[str]:
    wanted = {"nosuid": not mounting.suid, "nodev": not mounting.dev, "noexec": not mounting.exec}
    # The erofs engine has no such option: other users always have access.
    wanted["allow_other"] = mounting.allow_other and mounted.fstype != "erofs"
    return {name for name, is_set in wanted.items() if is_set}
