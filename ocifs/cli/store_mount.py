"""The mount of a store: the tree of all its images, mounted over the one before, for `ocifs store`."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from ocifs.errors import MountError, printable_path
from ocifs.mount.mountinfo import mount_at, unmount
from ocifs.mount.options import MountOptions
from ocifs.mount.record import LOG, list_mounts, runtime_directory
from ocifs.options import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocifs.imagestore.directory import StoreDirectory
    from ocifs.imagestore.members import Member
    from ocifs.imagestore.records import IdRanges, StoreRecord
    from ocifs.imagestore.tree import StoreTree

_CONFIGURATION_MAX = 1 << 20


def store_tree(members: "Sequence[Member]", options: Options, own: "StoreRecord", closing: ExitStack) -> "StoreTree":
    """Return the tree of a store with these images, whatever their order. Raises as `open_store_tree`."""
    from ocifs.imagestore.tree import open_store_tree

    stacks = sorted((each.stack for each in members), key=lambda stack: stack.ids)
    tree = open_store_tree(stacks, options, own.ids)
    closing.callback(tree.close)
    return tree


def serving(mounting: MountOptions, own: "StoreRecord", *, survive: bool) -> MountOptions:
    """Return the options as they apply to a store. Raises UsageError if they exclude each other."""
    if survive and (os.geteuid() or mounting.engine == "fuse"):
        raise click.UsageError("--survive is for root and the erofs engine")
    is_mapped = own.ids is not None and own.ids.kind == "idmap"
    if is_mapped and mounting.engine == "fuse":
        raise click.UsageError("a store with --idmap needs the erofs engine")
    return replace(mounting, survive=survive, engine="erofs" if survive or is_mapped else mounting.engine)


def mount_store(
    at: "StoreDirectory", tree: "StoreTree", mounting: MountOptions, own: "StoreRecord", count: int
) -> None:
    """Mount the tree of a store with `count` images; the previous mount stays for its users. Raises MountError."""
    from ocifs.mount.handoff import Handoff
    from ocifs.mount.job import Job
    from ocifs.mount.mountpoint import check_fuse
    from ocifs.service.client import Mounter

    check_fuse()
    ids = own.ids
    job = Job(
        image=f"{at.path} ({count} image{'' if count == 1 else 's'})",
        digest=str(tree.digest),
        mountpoint=at.mountpoint,
        rootfs=Handoff.of(tree.rootfs),
        options=replace(mounting, log=mounting.log or str(runtime_directory().path / LOG)),
        ids=(ids.uids, ids.gids) if ids is not None and ids.kind == "idmap" else None,
        swap=True,
    )
    chosen = ["--survive"] if mounting.survive else []
    with Mounter([*chosen, *([] if mounting.service else ["--no-service"])]) as mounter:
        mounter.mount(job)
    if job.ids is not None and os.stat(at.mountpoint).st_uid != job.ids[0][0][1]:
        unmount(at.mountpoint, lazy=True)
        raise MountError("the service is of an older version, which cannot map ids: run `ocifs service upgrade`")


def is_mounted(at: "StoreDirectory", tree: "StoreTree") -> bool:
    """Whether this tree is mounted, and served."""
    mounted = mount_at(at.mountpoint)
    return mounted is not None and mounted.digest == tree.digest and state_of(at.mountpoint) == "mounted"


def state_of(mountpoint: str) -> str:
    """Return `mounted`, `not mounted`, or another state of `ocifs mounts`."""
    mounted = mount_at(mountpoint)
    if mounted is None or mounted.digest is None:
        return "not mounted"
    listed = [each for each in list_mounts() if each.mountpoint == mountpoint and each.is_at(mounted)]
    return listed[-1].state if listed else "mounted"


def print_configuration(path: Path, ids: "IdRanges | None") -> None:
    """Print the line that storage.conf needs, unless it names the store already."""
    file = _configuration(ids)
    try:
        with file.open("rb") as text:
            if os.fsencode(path) in text.read(_CONFIGURATION_MAX):
                return
    except OSError:
        pass
    click.echo(f"add this to [storage.options] in {printable_path(str(file))}, for the driver overlay:", err=True)
    click.echo(f'additionalimagestores = ["{printable_path(str(path))}"]', err=True)


def _configuration(ids: "IdRanges | None") -> Path:
    """Return the storage.conf of the user that the store is for (containers-storage.conf(5))."""
    if own := os.environ.get("CONTAINERS_STORAGE_CONF"):
        return Path(own)
    if ids is None:
        return Path("/etc/containers/storage.conf")
    return Path(os.path.expanduser(f"~{ids.user}"), ".config/containers/storage.conf")
