"""`ocifs run`: running a command in a container that is removed afterwards."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from ocifs.cli.bundle import (
    BundleRequest,
    container_options,
    make_missing,
    mount_rootfs,
    overrides_of,
    prepare,
    spec_of,
    unwind_on_signals,
    write_bundle,
)
from ocifs.cli.command import command
from ocifs.cli.mount_options import serving_options
from ocifs.cli.options import image_options, open_image
from ocifs.errors import printable_path
from ocifs.mount.options import MountOptions
from ocifs.mount.overlay import RootfsKind, untrusted
from ocifs.mount.record import runtime_directory
from ocifs.options import Options
from ocifs.service.client import Mounter
from ocifs.trusted_directory import TrustedDirectory


@command()
@image_options
@serving_options
@container_options
@click.option("--runtime", metavar="PROGRAM", help="OCI runtime: runc, crun or a path.  [default: runc, else crun]")
@click.option("--keep/--rm", default=False, help="Keep the bundle, or remove it at the end.  [default: rm]")
@click.argument("image")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGS...]")
@click.pass_obj
def run(
    mounter: Mounter,
    image: str,
    args: tuple[str, ...],
    options: Options,
    mounting: MountOptions,
    rootfs: RootfsKind,
    rootless: bool | None,
    env: tuple[str, ...],
    user: str | None,
    cwd: str | None,
    hostname: str,
    tty: bool | None,
    runtime: str | None,
    keep: bool,
) -> int:
    """Run ARGS in a container of IMAGE; without ARGS, run the image's Entrypoint and Cmd.

    `ocifs run` forwards signals to the command and returns its exit status, or 128+N if signal N ended it. The
    container has its own network namespace, without a network.

    \b
    Try:  ocifs run ./debian:latest -- python3 -c 'print(42)'
          ocifs run --rootfs tmpfs ./debian:latest -- bash
    """
    unwind_on_signals()
    request = BundleRequest(
        kind=rootfs,
        rootless=bool(os.geteuid()) if rootless is None else rootless,
        mounting=mounting,
    )
    prepare(request, mounter)
    terminal = sys.stdin.isatty() and sys.stdout.isatty() if tty is None else tty
    if terminal and not sys.stdin.isatty():
        raise click.UsageError("--tty needs a terminal on standard input")
    with ExitStack() as last, ExitStack() as stack:
        from ocifs.bundle.runtime import Container, check_user_namespaces, find_runtime
        from ocifs.cli.container import cleaned_up

        program = find_runtime(runtime)
        if os.geteuid():
            check_user_namespaces()
        overrides = overrides_of(args, env, user, cwd, hostname, terminal=terminal)
        opened = stack.enter_context(open_image(image, options))
        spec, volumes = spec_of(opened, request, overrides, options)
        parent = _bundle_parent(large=request.kind in {"overlay", "copy"} or bool(volumes.copied))
        bundle = parent.temporary("ocifs-")
        held = last.enter_context(cleaned_up(parent, bundle, program, keep=keep))
        write_bundle(bundle, opened, spec, volumes, request)
        if request.kind != "copy":
            mount_rootfs(mounter, bundle.path, opened, request)
        make_missing(bundle.path, volumes)
        status = Container(program, bundle.path).run(keep_open=[held])
        if keep:
            click.echo(f"ocifs: kept {printable_path(str(bundle.path))}: `ocifs umount` removes it", err=True)
        return status


def _bundle_parent(*, large: bool) -> TrustedDirectory:
    """Return the directory to make the bundle in; `large`: its files may not fit in the runtime directory."""
    if not large:
        return runtime_directory()
    directory = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108
    try:
        return TrustedDirectory.open_shared(Path(directory))
    except OSError as error:
        raise untrusted(directory, error) from None
