"""`ocifs bundle`: making an OCI bundle of an image."""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import msgspec
from click.core import ParameterSource
from msgspec.structs import replace

from ocifs.cli.command import command
from ocifs.cli.mount_options import serving_options
from ocifs.cli.options import image_options, open_image, warn
from ocifs.errors import MountError, NotFoundError, printable_path
from ocifs.mount.lock import locked
from ocifs.mount.mountinfo import mount_at, real_mountpoint
from ocifs.mount.mountpoint import check_fuse
from ocifs.mount.options import MountOptions
from ocifs.mount.overlay import RootfsKind, make_directories, open_bundle, untrusted
from ocifs.mount.record import LOG, runtime_directory
from ocifs.options import Options
from ocifs.service.client import Mounter
from ocifs.trusted_directory import TrustedDirectory

if TYPE_CHECKING:
    from ocifs.bundle.config import Overrides
    from ocifs.bundle.runtime_spec import Spec
    from ocifs.bundle.volumes import Volumes
    from ocifs.image.opening import Image

F = TypeVar("F", bound=Callable[..., Any])


class BundleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The options for the rootfs of a bundle."""

    kind: RootfsKind
    rootless: bool
    mounting: MountOptions


def container_options(command: F) -> F:
    """Add the options of commands that make a container."""
    for add in (
        click.option("--tty/--no-tty", default=None, help="Allocate a terminal for the container."),
        click.option("--hostname", default="ocifs", show_default=True, help="The container's host name."),
        click.option("--cwd", metavar="PATH", help="Working directory, overriding the image's."),
        click.option("--user", metavar="USER[:GROUP]", help="USER[:GROUP] to run as, overriding the image's User."),
        click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable (repeatable)."),
        click.option(
            "--rootless/--no-rootless",
            default=None,
            help="Configure for an unprivileged runtime.  [default: unless run by root]",
        ),
        click.option(
            "--rootfs",
            type=click.Choice(["mount", "overlay", "tmpfs", "copy"]),
            default="mount",
            show_default=True,
            help="mount: read-only. overlay: keep writes in the bundle. tmpfs: discard writes. copy: unpack the image.",
        ),
    ):
        command = add(command)
    return command


@command()
@image_options
@serving_options
@container_options
@click.option("--args", metavar="COMMAND", help="Command to run, split into words as a shell does.")
@click.option("--remount", is_flag=True, help="Mount the existing bundle DIR again, with what was written to it.")
@click.argument("image")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=str))
@click.pass_context
def bundle(
    context: click.Context,
    image: str,
    directory: str,
    options: Options,
    mounting: MountOptions,
    rootfs: RootfsKind,
    rootless: bool | None,
    env: tuple[str, ...],
    user: str | None,
    cwd: str | None,
    hostname: str,
    tty: bool | None,
    args: str | None,
    remount: bool,
) -> None:
    """Make DIR a bundle of IMAGE: a config.json from the image's config, and a mounted rootfs.

    Nothing is unpacked. `ocifs umount DIR` unmounts the bundle, and --remount mounts it again.

    \b
    Try:  ocifs bundle --args sh ./debian:latest box && runc run --bundle box box
    """
    unwind_on_signals()
    request = BundleRequest(
        kind=rootfs,
        rootless=bool(os.geteuid()) if rootless is None else rootless,
        mounting=mounting,
    )
    mounter: Mounter = context.obj
    if remount:
        _refuse_creation_options(context)
        _mount_again(mounter, directory, request, options, image)
        return
    prepare(request, mounter)
    target, parent = _new_directory(directory)
    with ExitStack() as undo, ExitStack() as stack:
        from ocifs.mount.overlay import remove_tree
        from ocifs.mount.unmount import unmount_bundle

        overrides = overrides_of(_split(args), env, user, cwd, hostname, terminal=True if tty is None else tty)
        opened = stack.enter_context(open_image(image, options))
        spec, volumes = spec_of(opened, request, overrides, options)
        made = parent.temporary(f".{target.name}.")
        undo.callback(remove_tree, parent, made.path.name)
        write_bundle(made, opened, spec, volumes, request)
        parent.rename(made.path.name, target.name)
        undo.pop_all()
        undo.callback(remove_tree, parent, target.name)
        undo.callback(unmount_bundle, str(target), lazy=True)
        if request.kind != "copy":
            mount_rootfs(mounter, target, opened, request)
        make_missing(target, volumes)
        undo.pop_all()


def _refuse_creation_options(context: click.Context) -> None:
    """Refuse options that only a new bundle can take. Raises UsageError."""
    for name in ("rootfs", "rootless", "env", "user", "cwd", "hostname", "tty", "args"):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--remount mounts a bundle as it was made: leave --{name} out, or edit config.json")


def _mount_again(mounter: Mounter, directory: str, request: BundleRequest, options: Options, image: str) -> None:
    """Mount a bundle that `ocifs umount` has unmounted. Raises OcifsError."""
    from ocifs.bundle.mount_destinations import check_remounted
    from ocifs.bundle.origin import BundleOrigin
    from ocifs.mount.unmount import is_bundle, unmount_bundle

    bundle = Path(real_mountpoint(directory))
    shown = printable_path(directory)
    _refuse_mountpoint(str(bundle), shown)
    if not bundle.is_dir():
        raise NotFoundError(f"{shown} was not made by `ocifs bundle`")
    opened_bundle = open_bundle(str(bundle))
    origin = BundleOrigin.read(opened_bundle)
    if origin.rootfs == "copy":
        raise MountError(f"{shown} holds a copy of its image, so there is nothing to mount")
    request = replace(request, kind=origin.rootfs)
    prepare(request, mounter)
    with open_image(image, options) as opened, locked(str(bundle)), ExitStack() as undo:
        if is_bundle(str(bundle)):
            raise MountError(f"{shown} is mounted: `ocifs umount {shown}` first")
        if origin.digest != str(opened.digest):
            raise NotFoundError(f"{shown} is a bundle of the image {origin.digest}, not of {opened.digest}")
        undo.callback(unmount_bundle, str(bundle), lazy=True)
        make_directories(opened_bundle, request.kind)
        mount_rootfs(mounter, bundle, opened, request)
        if origin.rootfs == "tmpfs":  # a new tmpfs is empty; other kinds keep their volumes
            make_missing(bundle, _volumes_of(opened, options, readonly=False))
        check_remounted(bundle)
        undo.pop_all()


def unwind_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this process as SIGINT does, so that it undoes unfinished work."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def prepare(request: BundleRequest, mounter: Mounter) -> None:
    """Check the prerequisites before anything is made. Raises MountError."""
    if request.kind == "copy":
        mounter.kill()
    else:
        check_fuse()


def overrides_of(
    args: tuple[str, ...], env: tuple[str, ...], user: str | None, cwd: str | None, hostname: str, *, terminal: bool
) -> "Overrides":
    """Return the overrides that the options name. Raises BadParameter."""
    from ocifs.bundle.config import Overrides, parse_environment

    if cwd is not None and (not cwd.startswith("/") or ".." in cwd.split("/")):
        raise click.BadParameter("must be an absolute path without '..'", param_hint="--cwd")
    return Overrides(
        args=args,
        env=parse_environment(env, os.environ),
        user=user,
        cwd=cwd,
        hostname=hostname,
        terminal=terminal,
    )


def spec_of(image: "Image", request: BundleRequest, overrides: "Overrides", options: Options) -> "tuple[Spec, Volumes]":
    """Return the config.json of a container of the image, for this machine and user, and its volumes."""
    from ocifs.bundle.config import Host, runtime_spec
    from ocifs.bundle.machine import mismatch
    from ocifs.bundle.mount_destinations import check_destinations
    from ocifs.image.passwd import Accounts

    config = image.resolved.config

    host = Host(
        readonly=request.kind == "mount",
        rootless=(os.geteuid(), os.getegid()) if request.rootless else None,
        cgroup2=os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
    )
    accounts = Accounts.of(image.rootfs, options.limits)
    spec = runtime_spec(config, accounts, overrides, host, options.complain)
    volumes = _volumes_of(image, options, readonly=host.readonly)
    if warning := mismatch(config.platform, os.uname().machine):
        options.complain(warning)
    return check_destinations(replace(spec, mounts=spec.mounts + volumes.mounts()), image.rootfs), volumes


def _volumes_of(image: "Image", options: Options, *, readonly: bool) -> "Volumes":
    from ocifs.bundle.volumes import find_volumes

    paths = image.resolved.config.config.volumes
    return find_volumes(paths, image.rootfs, options.limits, options.complain, readonly=readonly)


def write_bundle(
    directory: TrustedDirectory, image: "Image", spec: "Spec", volumes: "Volumes", request: BundleRequest
) -> None:
    """Write config.json and make the mountpoints, or copy the rootfs. Raises OcifsError."""
    from ocifs.bundle.origin import BundleOrigin
    from ocifs.bundle.runtime_spec import to_json

    directory.write_file("config.json", to_json(spec))
    BundleOrigin(str(image.digest), request.kind).write(directory)
    make_directories(directory, request.kind)
    if request.kind == "copy":
        _copy(image, "/", directory.path / "rootfs", request)
    for volume, source in volumes.sources():
        directory.directory("volumes", make=True)
        target = directory.path / source
        if volume.exists:
            _copy(image, volume.destination, target, request)
        else:
            target.mkdir()
            target.chmod(0o755)


def make_missing(bundle: Path, volumes: "Volumes") -> None:
    """Make the volumes that the image lacks in a writable rootfs. Raises MountError."""
    from ocifs.bundle.mount_destinations import walk_down

    for volume in volumes.missing:
        walk_down(bundle / "rootfs", volume.names, make=True)


def _copy(image: "Image", path: str, target: Path, request: BundleRequest) -> None:
    """Copy a directory of the image into the bundle. Raises OcifsError."""
    from ocifs.cli.progress import exporting
    from ocifs.export.directory import export_directory

    with exporting() as progress:
        losses = export_directory(image.rootfs, path, str(target), rootless=request.rootless, progress=progress)
    for message in losses.messages():
        warn(message)


def mount_rootfs(mounter: Mounter, directory: Path, image: "Image", request: BundleRequest) -> None:
    """Mount the image in a bundle, and an overlay on top for a writable rootfs. Raises MountError."""
    from ocifs.mount.job import Job
    from ocifs.mount.overlay import image_mountpoint, mount_overlay

    as_root = os.geteuid() == 0  # other users cannot enter the bundle, so no setuid file is exposed
    log = request.mounting.log or str(runtime_directory().path / LOG)
    mounting = replace(request.mounting, log=log, suid=as_root, allow_other=as_root)
    owner = None if as_root else (os.geteuid(), os.getegid())
    job = Job.of(image, str(image_mountpoint(directory)), mounting)
    job = replace(job, owner=owner, bundle=str(directory))
    mounter.mount(job)
    if request.kind in {"overlay", "tmpfs"}:
        mount_overlay(directory)


def _new_directory(directory: str) -> tuple[Path, TrustedDirectory]:
    """Return the real path of a missing or empty directory, and its parent. Raises MountError."""
    target = Path(real_mountpoint(directory))
    shown = printable_path(directory)
    _refuse_mountpoint(str(target), shown)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise MountError(f"{shown} exists and is not a directory: name a new one")
    if target.is_dir() and any(target.iterdir()):
        what = "already holds a bundle" if (target / "config.json").exists() else "is not empty"
        raise MountError(f"{shown} {what}: name a new directory")
    if not target.parent.is_dir():
        raise MountError(f"{printable_path(str(target.parent))} is not a directory: make it first")
    try:
        return target, TrustedDirectory.open_shared(target.parent)
    except OSError as error:
        raise untrusted(directory, error) from None


def _refuse_mountpoint(directory: str, shown: str) -> None:
    """Refuse a mountpoint, before anything reads the directory, which may hang. Raises MountError."""
    if mounted := mount_at(directory):
        raise MountError(f"{shown} is a mountpoint ({mounted.fstype}): name another directory")


def _split(args: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(args or ""))
    except ValueError as error:
        raise click.BadParameter(f"{error}", param_hint="--args") from None
