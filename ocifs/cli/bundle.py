"""`ocifs bundle`: making an OCI bundle of an image."""

import os
import shlex
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click
import msgspec
from click.core import ParameterSource
from msgspec.structs import replace

from ocifs.bundle.origin import RootfsKind
from ocifs.cli.command import command
from ocifs.cli.container_options import (
    ContainerCommand,
    ContainerOption,
    ContainerOptions,
    container_options,
    refuse_pull,
)
from ocifs.cli.mount_options import serving_options
from ocifs.cli.options import image_options, open_image, warn
from ocifs.cli.unsupported import unsupported
from ocifs.errors import MountError, NotFoundError, printable_path
from ocifs.mount.lock import locked
from ocifs.mount.mountinfo import mount_at, real_mountpoint
from ocifs.mount.mountpoint import check_fuse
from ocifs.mount.options import MountOptions
from ocifs.mount.overlay import make_directories, open_bundle, untrusted
from ocifs.mount.record import LOG, runtime_directory
from ocifs.options import Options
from ocifs.service.client import Mounter
from ocifs.trusted_directory import TrustedDirectory

if TYPE_CHECKING:
    from ocifs.bundle.overrides import Overrides
    from ocifs.bundle.plan import Plan
    from ocifs.bundle.settings import ContainerSettings
    from ocifs.bundle.volumes import Volumes
    from ocifs.image.opening import Image


class BundleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The options for the rootfs of a bundle."""

    kind: RootfsKind
    rootless: bool
    mounting: MountOptions


@command(cls=ContainerCommand)
@image_options
@click.option("--args", metavar="COMMAND", help="Arguments after the Entrypoint, in one word.")
@click.option("--remount", is_flag=True, help="Mount the existing bundle DIR again.")
@container_options
@unsupported("--name", use="DIR names the bundle")
@unsupported("--rm", use="`ocifs umount DIR` unmounts it")
@serving_options
@click.argument("image")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=str))
@click.pass_context
def bundle(
    context: click.Context,
    image: str,
    directory: str,
    options: Options,
    mounting: MountOptions,
    container: ContainerOptions,
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
        kind=container.rootfs or "mount",
        rootless=container.rootless,
        mounting=mounting,
    )
    mounter: Mounter = context.obj
    if remount:
        _refuse_creation_options(context)
        _mount_again(mounter, directory, request, options, image)
        return
    refuse_pull(container, image)
    prepare(request, container.settings, mounter)
    target, parent = _new_directory(directory)
    with ExitStack() as undo, ExitStack() as stack:
        from ocifs.mount.overlay import remove_tree
        from ocifs.mount.unmount import unmount_bundle

        overrides = replace(container.overrides, args=_split(args), terminal=container.tty is not False)
        opened = stack.enter_context(open_image(image, replace(options, quick=True)))
        planned = plan_of(opened, request, overrides, container.settings, options)
        others = open_others(planned, options, stack)
        made = parent.temporary(f".{target.name}.")
        undo.callback(remove_tree, parent, made.path.name)
        write_bundle(made, opened, others, planned, request)
        parent.rename(made.path.name, target.name)
        undo.pop_all()
        undo.callback(remove_tree, parent, target.name)
        undo.callback(unmount_bundle, str(target), lazy=True)
        mount_all(mounter, target, opened, others, request)
        make_missing(target, planned.volumes)
        undo.pop_all()


def _refuse_creation_options(context: click.Context) -> None:
    """Refuse options that only a new bundle can take. Raises UsageError."""
    for each in context.command.params:
        only_new = isinstance(each, ContainerOption) or each.name == "args"
        if only_new and context.get_parameter_source(each.name or "") is not ParameterSource.DEFAULT:
            option = max(each.opts, key=len)
            raise click.UsageError(f"--remount mounts a bundle as it was made: leave {option} out, or edit config.json")


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
    prepare(request, None, mounter)
    with open_image(image, options) as opened, locked(str(bundle)), ExitStack() as stack, ExitStack() as undo:
        if is_bundle(str(bundle)):
            raise MountError(f"{shown} is mounted: `ocifs umount {shown}` first")
        if origin.digest != str(opened.digest):
            raise NotFoundError(f"{shown} is a bundle of the image {origin.digest}, not of {opened.digest}")
        others = {reference: stack.enter_context(open_image(reference, options)) for reference, _ in origin.images}
        for reference, digest in origin.images:
            if str(others[reference].digest) != digest:
                raise NotFoundError(f"{printable_path(reference)} is another image than the one of {shown}, {digest}")
        undo.callback(unmount_bundle, str(bundle), lazy=True)
        _make_mountpoints(opened_bundle, request.kind)
        mount_all(mounter, bundle, opened, others, request)
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


def prepare(request: BundleRequest, settings: "ContainerSettings | None", mounter: Mounter) -> None:
    """Check the prerequisites before anything is made. Raises MountError, UnsupportedError."""
    if request.kind == "copy":
        mounter.kill()
    if request.kind != "copy" or (settings and any(each.kind == "image" for each in settings.mounts)):
        check_fuse()
    if needs_systemd(request, settings):
        from ocifs.bundle.cgroups import check_delegated

        bus = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}") / "bus"
        check_delegated(settings.limited if settings else {}, os.geteuid(), bus)


def needs_systemd(request: BundleRequest, settings: "ContainerSettings | None") -> bool:
    """Whether the runtime has to ask the user's systemd for a cgroup, to limit the container."""
    return settings is not None and bool(settings.limited) and request.rootless and os.geteuid() != 0


def plan_of(
    image: "Image", request: BundleRequest, overrides: "Overrides", settings: "ContainerSettings", options: Options
) -> "Plan":
    """Plan a container of the image, for this machine and user. Raises OcifsError."""
    from ocifs.bundle.config import Host
    from ocifs.bundle.machine import mismatch
    from ocifs.bundle.plan import plan

    config = image.resolved.config
    host = Host(
        readonly=request.kind == "mount",
        rootless=(os.geteuid(), os.getegid()) if request.rootless else None,
        cgroup2=os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
    )
    planned = plan(config, image.rootfs, overrides, settings, host, options.complain)
    if warning := mismatch(config.platform, os.uname().machine):
        options.complain(warning)
    return planned


def open_others(planned: "Plan", options: Options, stack: ExitStack) -> "dict[str, Image]":
    """Open the images that are mounted in the container, by absolute reference. Raises OcifsError."""
    from ocifs.sources.naming import reference_of

    others = {}
    for text in planned.images:
        reference = reference_of(text)
        path = os.path.abspath(reference.path) if reference.is_path else reference.path
        absolute = text.replace(reference.path, path, 1)
        others[absolute] = stack.enter_context(open_image(absolute, options))
    return others


def _volumes_of(image: "Image", options: Options, *, readonly: bool) -> "Volumes":
    from ocifs.bundle.volumes import find_volumes

    paths = image.resolved.config.config.volumes
    return find_volumes(paths, image.rootfs, options.limits, options.complain, readonly=readonly)


def write_bundle(
    directory: TrustedDirectory,
    image: "Image",
    others: "dict[str, Image]",
    planned: "Plan",
    request: BundleRequest,
) -> None:
    """Write config.json and make the mountpoints, or copy the rootfs. Raises OcifsError."""
    from ocifs.bundle.origin import BundleOrigin
    from ocifs.bundle.plan import FILES, IMAGES
    from ocifs.bundle.runtime_spec import to_json

    directory.write_file("config.json", to_json(planned.spec))
    images = tuple((reference, str(other.digest)) for reference, other in others.items())
    BundleOrigin(str(image.digest), request.kind, images).write(directory)
    _make_mountpoints(directory, request.kind)
    if planned.files:
        files = directory.directory(FILES, make=True)
        for name, content in planned.files.items():
            with open(files.open_file(name, os.O_WRONLY | os.O_CREAT), "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), 0o644)
    if others:
        mountpoints = directory.directory(IMAGES, make=True)
        for number in range(len(others)):
            mountpoints.directory(str(number), make=True)
    if request.kind == "copy":
        _copy(image, "/", directory.path / "rootfs", request)
    for volume, source in planned.volumes.sources():
        directory.directory("volumes", make=True)
        target = directory.path / source
        if volume.exists:
            _copy(image, volume.destination, target, request)
        else:
            target.mkdir()
            target.chmod(0o755)


def _make_mountpoints(bundle: TrustedDirectory, kind: RootfsKind) -> None:
    make_directories(bundle, overlay=kind in {"overlay", "tmpfs"}, tmpfs=kind == "tmpfs")


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


def mount_all(
    mounter: Mounter, directory: Path, image: "Image", others: "dict[str, Image]", request: BundleRequest
) -> None:
    """Mount the image in a bundle, an overlay on top for a writable rootfs, and the other images. Raises MountError."""
    from ocifs.layer.trimming import trim_later
    from ocifs.mount.overlay import image_mountpoint, mount_overlay, other_mountpoint

    if request.kind != "copy":
        # Other users cannot enter the bundle, so no setuid file is exposed.
        _mount_image(mounter, image, image_mountpoint(directory), directory, request, suid=os.geteuid() == 0)
    if request.kind in {"overlay", "tmpfs"}:
        mount_overlay(directory)
    for number, other in enumerate(others.values()):
        with mounter.another() as another:
            _mount_image(another, other, other_mountpoint(directory, number), directory, request, suid=False)
    for each in (image, *others.values()):
        trim_later(each.options.store, each.layers)


def _mount_image(
    mounter: Mounter, image: "Image", mountpoint: Path, directory: Path, request: BundleRequest, *, suid: bool
) -> None:
    from ocifs.mount.job import Job

    as_root = os.geteuid() == 0
    log = request.mounting.log or str(runtime_directory().path / LOG)
    mounting = replace(request.mounting, log=log, suid=suid, allow_other=as_root)
    owner = None if as_root else (os.geteuid(), os.getegid())
    mounter.mount(replace(Job.of(image, str(mountpoint), mounting), owner=owner, bundle=str(directory)))


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
