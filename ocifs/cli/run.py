"""`ocifs run`: a container of an image, with nothing left of it afterwards."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

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
from ocifs.cli.options import Opening, image_options, mount_options
from ocifs.errors import printable_path
from ocifs.mount.overlay import RootfsKind, untrusted
from ocifs.mount.process import Daemon
from ocifs.mount.record import runtime_directory
from ocifs.trusted_directory import TrustedDirectory


@click.command(short_help="Run a container of an image.")
@image_options
@mount_options
@container_options
@click.option("--runtime", metavar="PROGRAM", help="runc, crun or a path.  [default: runc, or else crun]")
@click.option("--keep/--rm", default=False, help="Keep the bundle, or remove it at the end.  [default: rm]")
@click.argument("image")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGS...]")
@click.pass_obj
def run(
    daemon: Daemon,
    image: str,
    args: tuple[str, ...],
    opening: Opening,
    engine: Literal["auto", "erofs", "fuse"],
    span_cache: int,
    read_timeout: int,
    log: Path | None,
    prefetch: bool,
    prefetch_rate: int | None,
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
    """Run ARGS, or what the image's config says, in a container of IMAGE; ARGS replace Entrypoint and Cmd.

    Signals reach the command, and its exit status is that of `ocifs run`: 128+N if signal N ended it. The container has
    a network namespace of its own, without a network.

    \b
    Try:  ocifs run ./debian:latest -- python3 -c 'print(42)'
          ocifs run --rootfs tmpfs ./debian:latest -- bash
    """
    unwind_on_signals()
    wanted = BundleRequest(
        kind=rootfs,
        rootless=bool(os.geteuid()) if rootless is None else rootless,
        engine=engine,
        span_cache=span_cache,
        read_timeout=read_timeout,
        log=log,
        prefetch=prefetch,
        prefetch_rate=prefetch_rate,
    )
    prepare(wanted, daemon)
    terminal = sys.stdin.isatty() and sys.stdout.isatty() if tty is None else tty
    if terminal and not sys.stdin.isatty():
        raise click.UsageError("--tty takes a terminal, which standard input is not")
    with ExitStack() as last, ExitStack() as stack:
        from ocifs.bundle.runtime import Container, check_user_namespaces, find_runtime
        from ocifs.cli.container import cleaned_up

        program = find_runtime(runtime)
        if os.geteuid():
            check_user_namespaces()
        overrides = overrides_of(args, env, user, cwd, hostname, terminal=terminal)
        opened = stack.enter_context(opening.open(image))
        spec, volumes = spec_of(opened, wanted, overrides, opening)
        place = _place_for(much=wanted.kind in {"overlay", "copy"} or bool(volumes.copied))
        bundle = place.temporary("ocifs-")
        held = last.enter_context(cleaned_up(place, bundle, program, keep=keep))
        write_bundle(bundle, opened, spec, volumes, wanted)
        if wanted.kind != "copy":
            mount_rootfs(daemon, bundle.path, opened, wanted)
        make_missing(bundle.path, volumes)
        status = Container(program, bundle.path).run(keep_open=[held])
        if keep:
            click.echo(f"ocifs: kept {printable_path(str(bundle.path))}: `ocifs umount` removes it", err=True)
        return status


def _place_for(*, much: bool) -> TrustedDirectory:
    """Return where to make the bundle; `much`: its files may need more space than the runtime directory has."""
    if not much:
        return runtime_directory()
    place = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108
    try:
        return TrustedDirectory.open_shared(Path(place))
    except OSError as error:
        raise untrusted(place, error) from None
