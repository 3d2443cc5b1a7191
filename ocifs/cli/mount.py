"""`ocifs mount`, `umount` and `mounts`."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import click
import msgspec
from msgspec.structs import replace

from ocifs.cli.command import Option, command
from ocifs.cli.fstab_options import MountCommand
from ocifs.cli.mount_options import mount_options
from ocifs.cli.mount_table import mount_lines
from ocifs.cli.options import image_options, json_option, open_image, tell
from ocifs.cli.output import terminal_width
from ocifs.errors import MountError, OcifsError, printable_path
from ocifs.mount.lock import locked
from ocifs.mount.mountinfo import mount_at, real_mountpoint
from ocifs.mount.mountpoint import check_fuse, check_mountpoint, is_on_automount, needed
from ocifs.mount.new_mountpoint import new_mountpoint
from ocifs.mount.options import MountOptions
from ocifs.mount.record import LOG, ListedMount, list_mounts, runtime_directory
from ocifs.mount.unmount import is_bundle, unmount_bundle, unmount_image
from ocifs.options import Options
from ocifs.service.client import Mounter
from ocifs.service.notify import notify
from ocifs.sources.naming import reference_of

if TYPE_CHECKING:
    from ocifs.mount.job import MountReply


@command(cls=MountCommand)
@image_options
@mount_options
@click.option(
    "-o",
    "--options",
    "fstab_options",
    multiple=True,
    metavar="LIST",
    expose_value=False,
    help="Mount options, as in fstab: noexec,allow_other.",
    cls=Option,
    details=(
        "noexec, suid, dev, user; each option above as KEY[=VALUE]; keep: succeed if IMAGE is mounted there already; "
        "remount: fail if it is not. Options that concern only mount(8), systemd or writing have no effect."
    ),
)
@click.option("--keep", is_flag=True, hidden=True)  # both in favour of -o
@click.option("--remount", is_flag=True, hidden=True)
@click.option("--foreground", "-f", is_flag=True, help="Serve from this process until unmounted.")
@click.option("--verbose", "-v", is_flag=True, help="Report the indexes used, the engine, and why.")
@click.argument("image")
@click.argument("mountpoint", type=click.Path(path_type=str), required=False)
@click.pass_obj
def mount(
    mounter: Mounter,
    image: str,
    mountpoint: str | None,
    options: Options,
    mounting: MountOptions,
    keep: bool,
    remount: bool,
    foreground: bool,
    verbose: bool,
) -> None:
    """Mount IMAGE read-only, without unpacking, on MOUNTPOINT or a new directory.

    \b
    Try:  ocifs mount ./debian:latest /mnt
    \f
    The command returns once the mount answers. The first use of an image reads and indexes each layer once; the time
    of later mounts does not depend on the size of the image. MOUNTPOINT must be empty. Without it, a new directory
    in the runtime directory, named after the image, exists as long as the mount; the command prints its path.
    """
    mounting = _checked(mounting, foreground=foreground)
    check_fuse()
    if foreground:
        mounter.kill()
    with ExitStack() as stack:
        where = stack.enter_context(new_mountpoint(image)) if mountpoint is None else mountpoint
        if (keep or remount) and _keeps(image, where, options, mounting, remount=remount):
            return
        from ocifs.layer.trimming import trim_later
        from ocifs.mount.job import Job, MountReply

        runtime = runtime_directory().path
        log = mounting.log or (None if foreground else str(runtime / LOG))
        cache = options.store.directory
        keep_visible = needed(reference_of(image), cache, str(runtime), log)
        real = check_mountpoint(where, keep_visible, cache, replace=mounting.replace)
        options = replace(options, quick=True, tell=tell if verbose else options.tell)
        opened = stack.enter_context(open_image(image, options))
        mounting = _on_automount(mounting) if is_on_automount(real) else mounting
        job = Job.of(opened, real, replace(mounting, log=log))
        if not foreground:
            reply = mounter.mount(job)
            trim_later(options.store, opened.layers)
            _tell_mounted(reply, where if mountpoint is None else None, verbose=verbose)
            return
        from ocifs.mount.daemon import serve

        def mounted(reply: MountReply) -> None:
            trim_later(options.store, opened.layers)
            _tell_mounted(reply, where if mountpoint is None else None, verbose=verbose)
            click.echo(f"{printable_path(where)}: mounted until interrupted", err=True)
            notify("READY=1")

        serve(job, mounted, ending=partial(notify, "STOPPING=1"))


def _checked(mounting: MountOptions, *, foreground: bool) -> MountOptions:
    """Return the options as they apply. Raises UsageError if they are not for this user, or exclude each other."""
    if os.geteuid() and (mounting.suid or mounting.dev):
        raise click.UsageError("--suid and --dev are for root only")
    if not mounting.survive:
        return mounting
    if os.geteuid() or mounting.engine == "fuse" or foreground:
        raise click.UsageError("--survive is for root and the erofs engine, and excludes --foreground")
    return replace(mounting, engine="erofs")


def _on_automount(mounting: MountOptions) -> MountOptions:
    """Return the options for a mount on an automount, which only a process of its process group can make."""
    if mounting.survive:
        raise click.UsageError("--survive excludes automounts: leave it out, or mount elsewhere")
    return replace(mounting, service=False)


def _tell_mounted(reply: "MountReply", created: str | None, *, verbose: bool) -> None:
    """Print how it is mounted, and the mountpoint that was created."""
    if verbose:
        click.echo(_mounted_by(reply), err=True)
    if created is not None:
        click.echo(created)


def _keeps(image: str, mountpoint: str, options: Options, mounting: MountOptions, *, remount: bool) -> bool:
    """Whether IMAGE is mounted already. Raises MountError for a remount if it is not."""
    from ocifs.cli.keeping import is_mounted

    if is_mounted(image, real_mountpoint(mountpoint), options, mounting):
        return True
    if remount:
        raise MountError(
            f"cannot remount {printable_path(mountpoint)}: {printable_path(image)} is not mounted there, or its daemon "
            "is dead: mount it, with --replace if another image is there"
        )
    return False


def _mounted_by(reply: "MountReply") -> str:
    reason = f": {reply.reason}" if reply.reason else ""
    return printable_path(f"ocifs: mounted by the {reply.engine} engine{reason}")


@command()
@click.option("--lazy", "-l", is_flag=True, help="Detach it now, even if it is in use.")
@click.option(
    "--all", "-a", "everything", is_flag=True, help="Unmount everything that `ocifs mounts` lists with a pid."
)
@click.argument("mountpoints", nargs=-1, metavar="MOUNTPOINT...")
def umount(mountpoints: tuple[str, ...], lazy: bool, everything: bool) -> int:
    """Unmount each MOUNTPOINT, and wait until its daemon has exited.

    If MOUNTPOINT is a bundle, unmount everything in it; if `ocifs run` left it behind, also delete its container and
    remove it. Mounts whose daemon died are cleared. For other mounts, umount(8) and `fusermount3 -u` work as well.
    """
    if not everything and not mountpoints:
        raise click.MissingParameter(param_hint="MOUNTPOINT...", param_type="argument")
    if everything and mountpoints:
        raise click.UsageError("--all and MOUNTPOINT exclude each other")
    status = 0
    for mountpoint in _all_mounted() if everything else mountpoints:
        try:
            _unmount(real_mountpoint(mountpoint), lazy=lazy)
        except OcifsError as error:
            click.echo(f"ocifs: {printable_path(str(error))}", err=True)
            status = error.exit_code
    return status


def _unmount(real: str, *, lazy: bool) -> None:
    from ocifs.cli.container import is_container, remove_container

    with locked(real):
        if mount_at(real):  # first, because a mount may hang: nothing in it is looked up
            unmount_image(real, lazy=lazy)
        elif is_container(real):
            remove_container(real)
        elif is_bundle(real):
            unmount_bundle(real, lazy=lazy)
        else:
            unmount_image(real, lazy=lazy)


def _all_mounted() -> Iterator[str]:
    """Yield each mountpoint or bundle in this mount namespace, the newest first, unless it is unmounted meanwhile.

    Mounts without a record are left alone: they belong to another runtime directory, or are bind mounts.
    """
    for mount in reversed(list_mounts()):
        if mount.pid and mount.state != "elsewhere" and mount_at(mount.mountpoint):
            yield mount.bundle or mount.mountpoint


@command()
@json_option
@click.option("--verbose", "-v", is_flag=True, help="Show what was verified of each layer, and when.")
def mounts(as_json: bool, verbose: bool) -> None:
    """List mounted images: mountpoint or bundle, image, digest, pid, state, kind and engine.

    States: `mounted`; `restarting`, its keeper replaces the process that serves it; `dead`, that process is gone for
    good (clear the mount with `ocifs umount`); `elsewhere`, the mount is in another mount namespace. `unverified`: the
    mount uses a published index that is not yet verified against the whole layers. `refuted`: the verification failed,
    and every further read fails.
    """
    listed = list_mounts()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(list(map(_members, listed)))))
        return
    for line in mount_lines(listed, terminal_width(), verbose=verbose):
        click.echo(line)


def _members(mount: ListedMount) -> dict[str, object]:
    """Return the JSON members of a mount."""
    from ocifs.report.listing import named

    fields: dict[str, object] = msgspec.to_builtins(mount)
    for key in ("image", "mountpoint", "log", "bundle"):
        if isinstance(path := fields[key], str):
            fields |= named(key, os.fsencode(path))
    return fields
