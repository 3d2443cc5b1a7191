"""`ocifs run`: running a command in a container that is removed afterwards."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import click
from msgspec.structs import replace

from ocifs.bundle.origin import RootfsKind
from ocifs.bundle.paths import check_utf8
from ocifs.cli.bundle import (
    BundleRequest,
    make_missing,
    mount_all,
    needs_systemd,
    open_others,
    plan_of,
    prepare,
    unwind_on_signals,
    write_bundle,
)
from ocifs.cli.command import command
from ocifs.cli.container_options import (
    NAME,
    RUNTIME,
    ContainerCommand,
    ContainerOptions,
    container_options,
    refuse_pull,
)
from ocifs.cli.mount_options import serving_options
from ocifs.cli.options import image_options, open_image
from ocifs.errors import MountError, printable_path
from ocifs.mount.options import MountOptions
from ocifs.mount.overlay import untrusted
from ocifs.mount.record import runtime_directory
from ocifs.options import Options
from ocifs.service.client import Mounter
from ocifs.trusted_directory import TrustedDirectory

_PREFIX = "ocifs-"


@command(cls=ContainerCommand, context_settings={"allow_interspersed_args": False})
@image_options
@container_options
@click.option("--name", type=NAME, metavar="NAME", help="Name of the container and its bundle.")
@click.option("--keep/--rm", default=False, show_default="rm", help="Keep or remove the bundle.")
@click.option("--runtime", type=RUNTIME, metavar="PROGRAM", show_default="runc, else crun", help="OCI runtime.")
@serving_options
@click.argument("image")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS...]")
@click.pass_obj
def run(
    mounter: Mounter,
    image: str,
    args: tuple[str, ...],
    options: Options,
    mounting: MountOptions,
    container: ContainerOptions,
    runtime: str | None,
    name: str | None,
    keep: bool,
) -> int:
    """Run the Entrypoint of IMAGE with ARGS, or with its Cmd, in a container.

    Options come before IMAGE; all that follows belongs to the command. Writes are discarded.

    \b
    Try:  ocifs run -it ./debian:latest bash
          ocifs run -v ./src:/src -w /src ./debian:latest make test
    \f
    `ocifs run` forwards signals to the command and returns its exit status, or 128+N if signal N ended it; 127 if there
    is no such command, 126 if it cannot be executed. The container has no network, unless --net host gives it the
    host's.
    """
    unwind_on_signals()
    request = BundleRequest(
        kind=container.rootfs or "tmpfs",
        rootless=container.rootless,
        mounting=mounting,
    )
    refuse_pull(container, image)
    prepare(request, container.settings, mounter)
    if container.tty and not sys.stdin.isatty():
        raise click.UsageError("--tty needs a terminal on standard input")
    with ExitStack() as last, ExitStack() as stack:
        from ocifs.bundle.command import check_command
        from ocifs.bundle.plan import IMAGES
        from ocifs.bundle.runtime import Container, check_user_namespaces, find_runtime
        from ocifs.cli.container import cleaned_up

        program = find_runtime(runtime)
        if os.geteuid():
            check_user_namespaces()
        words = args[1:] if args[:1] == ("--",) else args
        overrides = replace(container.overrides, args=_encodable(words), terminal=bool(container.tty))
        opened = stack.enter_context(open_image(image, replace(options, quick=True)))
        planned = plan_of(opened, request, overrides, container.settings, options)
        others = open_others(planned, options, stack)
        parent = _bundle_parent(large=_is_large(request.kind) or bool(planned.volumes.copied))
        mounted = {f"{IMAGES}/{number}": each.rootfs for number, each in enumerate(others.values())}
        check_command(planned.execution, opened.rootfs, os.uname().machine, mounted)
        bundle = _make_bundle(parent, name)
        systemd = needs_systemd(request, container.settings)
        held = last.enter_context(cleaned_up(parent, bundle, program, keep=keep))
        write_bundle(bundle, opened, others, planned, request)
        mount_all(mounter, bundle.path, opened, others, request)
        make_missing(bundle.path, planned.volumes)
        # A command that may not read the terminal gets no input, as in podman; a pipe or a file it may read.
        closed = sys.stdin.isatty() and not (container.tty or container.interactive)
        status = mounter.run(Container(program, bundle.path, systemd=systemd), [held], has_input=not closed)
        if keep:
            click.echo(f"ocifs: kept {printable_path(str(bundle.path))}: `ocifs umount` removes it", err=True)
        return status


def _encodable(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the arguments. Raises UsageError for one that config.json cannot hold."""
    for each in words:
        try:
            check_utf8(each)
        except ValueError as error:
            raise click.UsageError(f"argument {error}") from None
    return words


def _make_bundle(parent: TrustedDirectory, name: str | None) -> TrustedDirectory:
    """Make the directory of a bundle, whose name is the container's. Raises MountError."""
    if name is None:
        return parent.temporary(_PREFIX)
    directory = _PREFIX + name
    try:
        os.mkdir(directory, 0o700, dir_fd=parent.fd)
    except FileExistsError:
        shown = printable_path(str(parent.path / directory))
        raise MountError(
            f"--name {name} is in use: choose another, or remove that container with `ocifs umount {shown}`"
        ) from None
    return parent.directory(directory)


def _is_large(kind: RootfsKind) -> bool:
    """Whether writes of the container go to a directory of the disk."""
    return kind in {"overlay", "copy"} or (kind == "tmpfs" and os.geteuid() != 0)


def _bundle_parent(*, large: bool) -> TrustedDirectory:
    """Return the directory to make the bundle in; `large`: its files may not fit in the runtime directory."""
    if not large:
        return runtime_directory()
    directory = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108
    try:
        return TrustedDirectory.open_shared(Path(directory))
    except OSError as error:
        raise untrusted(directory, error) from None
