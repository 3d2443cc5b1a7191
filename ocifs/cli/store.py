"""`ocifs store`: an additional image store, from which podman, buildah and CRI-O run images without pulling them."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec.structs import replace

from ocifs.cli.command import Group
from ocifs.cli.mount_options import serving_options
from ocifs.cli.options import image_options, json_option, open_image, tell, warn
from ocifs.cli.output import terminal_width
from ocifs.cli.store_mount import is_mounted, mount_store, print_configuration, serving, state_of, store_tree
from ocifs.errors import NotFoundError, OcifsError, StoreError, printable_path
from ocifs.mount.options import MountOptions
from ocifs.options import Options
from ocifs.report.text import fitted, human_size, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocifs.imagestore.directory import StoreDirectory
    from ocifs.imagestore.members import Member
    from ocifs.imagestore.records import IdRanges, ImageOrigin, ImageRecord, Records

_store_argument = click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
_survive = click.option("--survive", is_flag=True, help="Survive the end of the daemon (root only).")


@click.group(cls=Group)
def store() -> None:
    """Let podman, buildah and CRI-O run images that ocifs reads in place.

    STORE is a directory that storage.conf names as an additional image store. Its images look like pulled ones, but no
    layer is unpacked: one mount shows the layers of all images. See docs/podman.md.

    \b
    Try:  ocifs store add /srv/images ./debian:latest
          podman run localhost/debian true
    """


@store.command()
@image_options
@serving_options
@_survive
@click.option("--name", "names", multiple=True, metavar="NAME", help="Name in podman, instead of IMAGE's (repeatable).")
@click.option(
    "--tar-split/--no-tar-split",
    default=None,
    show_default="for complete layers",
    help="Make exact pushes possible; fetch whole layers.",
)
@click.option("--idmap", "user", metavar="USER", help="New store of root: map owners for USER's podman.")
@click.option(
    "--subuid/--no-subuid",
    default=None,
    show_default="unless root",
    help="New store: map owners by /etc/subuid.",
)
@_store_argument
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
def add(
    directory: Path,
    images: tuple[str, ...],
    options: Options,
    mounting: MountOptions,
    survive: bool,
    names: tuple[str, ...],
    tar_split: bool | None,
    user: str | None,
    subuid: bool | None,
) -> None:
    """Add images to STORE, make it if it is missing, and mount it.

    Running containers continue. An image that is in STORE already gets the new names, and the tar-splits of layers that
    are complete by now. If several images are added with one name, the latest one has it.
    """
    from ocifs.imagestore.directory import StoreDirectory
    from ocifs.imagestore.images import full_name, names_of
    from ocifs.imagestore.members import member_of, open_members, records_of, write_members

    if names and len(images) > 1:
        raise click.UsageError("--name is for a single IMAGE")
    given = tuple(map(full_name, names))
    wanted = replace(options, lazy=False) if tar_split else options
    ids = _ids(user, subuid=subuid)
    with StoreDirectory.opened(directory, make=True, public=user is not None) as at, ExitStack() as closing:
        before, is_new = _with_ids(at.read().pruned(), ids, stated=user is not None or subuid is not None)
        members = open_members(before, options, closing, _refuse)
        added = []
        for each in images:
            image = closing.enter_context(open_image(each, wanted))
            added.append(member_of(image, given or names_of(image), before))
        everything = [*(each for each in members if each.new.record.id not in _identities(added)), *added]
        after = records_of(added, before)
        try:
            tree = store_tree(everything, options, before.own, closing)
            write_members(at, added, tree, tar_split=_has_checksums() if tar_split is None else tar_split)
            mount_store(at, tree, serving(mounting, before.own, survive=survive), before.own, len(after.images))
        except BaseException:
            at.remove_unused(before)
            raise
        at.write(after)
    for member in added:
        record = next(each for each in after.images if each.id == member.new.record.id)
        click.echo(f"{record.id} {' '.join(record.names)}")
    if is_new:
        print_configuration(at.path, before.own.ids)


@store.command()
@image_options
@serving_options
@_survive
@_store_argument
@click.argument("images", nargs=-1, required=True, metavar="NAME|ID...")
def rm(
    directory: Path,
    images: tuple[str, ...],
    options: Options,
    mounting: MountOptions,
    survive: bool,
) -> int:
    """Remove images from STORE, by name or by the first digits of their ID.

    First remove the containers and images that podman has built on them: podman does not know that these need them.
    Running containers continue.
    """
    from ocifs.imagestore.directory import StoreDirectory
    from ocifs.imagestore.images import full_name
    from ocifs.imagestore.members import open_members

    with StoreDirectory.opened(directory) as at, ExitStack() as closing:
        before = at.read().pruned()
        removed = set()
        for each in images:
            found = before.image(each) or before.image(full_name(each))
            if found is None:
                raise NotFoundError(f"{printable_path(each)} is not in the store: `ocifs store ls` lists its images")
            removed.add(found.id)
        left = tuple(each for each in before.images if each.id not in removed)
        after = msgspec.structs.replace(before, images=left).pruned()
        failures = _Failures()
        tree = store_tree(open_members(after, options, closing, failures.note), options, before.own, closing)
        at.write(after)
        mount_store(at, tree, serving(mounting, before.own, survive=survive), before.own, len(after.images))
        at.remove_unused(after)
    return failures.status


@store.command()
@image_options
@serving_options
@_survive
@_store_argument
def mount(directory: Path, options: Options, mounting: MountOptions, survive: bool) -> int:
    """Mount STORE, as after a reboot, or again after the end of its daemon.

    If it is mounted already, nothing changes.
    """
    from ocifs.imagestore.directory import StoreDirectory
    from ocifs.imagestore.members import open_members

    with StoreDirectory.opened(directory) as at, ExitStack() as closing:
        records = at.read().pruned()
        failures = _Failures()
        tree = store_tree(open_members(records, options, closing, failures.note), options, records.own, closing)
        if not is_mounted(at, tree):
            mount_store(at, tree, serving(mounting, records.own, survive=survive), records.own, len(records.images))
    return failures.status


@store.command()
@_store_argument
def umount(directory: Path) -> None:
    """Unmount STORE. Running containers continue; new ones fail to start until STORE is mounted again."""
    from ocifs.imagestore.directory import StoreDirectory
    from ocifs.mount.lock import locked
    from ocifs.mount.unmount import unmount_image

    with StoreDirectory.opened(directory) as at, locked(at.mountpoint):
        unmount_image(at.mountpoint, lazy=True)


@store.command("ls")
@json_option
@_store_argument
def list_images(directory: Path, as_json: bool) -> None:
    """List the images of STORE.

    PUSH is `exact` if podman can push the image: all layers are verified, and have a tar-split. Else a push fails.
    """
    from ocifs.imagestore.directory import StoreDirectory

    with StoreDirectory.opened(directory) as at:
        records = at.read()
        rows = [_row(at, records, each) for each in records.images]
        state = state_of(at.mountpoint)
    if as_json:
        found = {"state": state, "images": rows}
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    if state != "mounted":
        tell(f"the store is {state}: `ocifs store mount {printable_path(str(directory))}`")
    head = ("NAME", "ID", "LAYERS", "SIZE", "PUSH", "SOURCE")
    cells = [
        (
            printable_path(" ".join(names) or "<none>"), str(row["id"])[:12], str(row["layers"]),
            human_size(row["size"]), "exact" if row["exact"] else "no", printable_path(row["source"]),
        )
        for row in rows
        for names in [row["names"]]
    ]  # fmt: skip
    for line in table(fitted([head, *cells], terminal_width(), elastic=(0, 5)), right=(2, 3)):
        click.echo(line.rstrip())


@store.command()
@image_options
@serving_options
@_survive
@click.option("--repair", is_flag=True, help="Write the records again, and mount.")
@_store_argument
def check(directory: Path, options: Options, mounting: MountOptions, survive: bool, repair: bool) -> int:
    """Look for damage in STORE, one line for each; exit status 1 if there is any.

    --repair writes the records of images again from their sources, removes what no image uses, and mounts.
    """
    from ocifs.imagestore.checking import problems
    from ocifs.imagestore.directory import StoreDirectory
    from ocifs.imagestore.repair import plan_repair

    with StoreDirectory.opened(directory, mend=repair) as at, ExitStack() as closing:
        state = state_of(at.mountpoint)
        found = [
            *problems(at, is_mounted=state == "mounted"),
            *([] if state == "mounted" else [f"the store is {state}"]),
        ]
        for problem in found:
            click.echo(printable_path(problem))
        if not repair:
            return 1 if found else 0
        failures = _Failures()
        repair_plan = plan_repair(at, options, closing, failures.note)
        own = repair_plan.records.own
        tree = store_tree(repair_plan.members, options, own, closing)
        repair_plan.write(at, tree)
        if not is_mounted(at, tree):
            mount_store(at, tree, serving(mounting, own, survive=survive), own, len(own.images))
    return failures.status


class _Failures:
    """Images that cannot be opened: each is warned of, and the last one decides the exit status."""

    def __init__(self) -> None:
        self.status = 0

    def note(self, origin: "ImageOrigin", error: OcifsError) -> None:
        """Warn of an image that is left out."""
        self.status = error.exit_code
        warn(f"image {origin.id[:12]} is left out: {error}: make its source available, or `ocifs store rm` it")


def _refuse(origin: "ImageOrigin", error: OcifsError) -> None:
    """Raise the error of an image of the store that cannot be opened."""
    raise type(error)(
        f"image {origin.id[:12]} of the store: {error}: make its source available, or `ocifs store rm` it"
    ) from None


def _ids(user: str | None, *, subuid: bool | None) -> "IdRanges | None":
    """Return the id ranges that the options select. Raises UsageError for options that this user cannot use."""
    from ocifs.imagestore.ids import ranges_of

    if os.geteuid() and user is not None:
        raise click.UsageError("--idmap is for root only: your own store has your own ids")
    if not os.geteuid() and subuid:
        raise click.UsageError("--subuid is for ordinary users: root makes a store for a user with --idmap USER")
    if user is not None:
        return ranges_of(user, "idmap")
    return ranges_of(None, "subuid") if os.geteuid() and subuid is not False else None


def _identities(members: "Sequence[Member]") -> set[str]:
    return {each.new.record.id for each in members}


def _with_ids(records: "Records", wanted: "IdRanges | None", *, stated: bool) -> "tuple[Records, bool]":
    """Return the records, with the ids of a new store, and whether it is new. Raises StoreError."""
    own = records.own
    if not records.images and not own.images:
        return replace(records, own=replace(own, ids=wanted)), True
    if stated and (own.ids is None or wanted is None or (own.ids.user, own.ids.kind) != (wanted.user, wanted.kind)):
        whose = f"for {own.ids.user}" if own.ids else "with the ids of the images"
        raise StoreError(f"the store is {whose}: leave --idmap and --subuid out, or name another directory")
    return records, False


def _has_checksums() -> bool:
    """Whether the package for the checksums in tar-splits is installed; warn if it is not."""
    from importlib.util import find_spec

    if find_spec("fastcrc") is None:
        warn("podman cannot push these images exactly: pip install 'ocifs[podman]', and add them again")
        return False
    return True


def _row(at: "StoreDirectory", records: "Records", image: "ImageRecord") -> dict[str, Any]:
    layers = records.chain(image.layer)
    origin = records.origin(image.id)
    return {
        "names": image.names,
        "id": image.id,
        "digest": image.digest,
        "layers": len(layers),
        "size": sum(layer.diff_size for layer in layers),
        "verified": all(layer.is_verified for layer in layers),
        "exact": all(layer.is_verified and at.has_tar_split(layer.id) for layer in layers),
        "source": origin.reference if origin else "?",
    }
