"""`ocifs snapshotter`: serve images to containerd, which runs containers on them without unpacking."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from msgspec.structs import replace

from ocifs.cli.command import Group, Option
from ocifs.cli.exit_status import NO, YES, failures_not_as_no
from ocifs.cli.mount_options import serving_options
from ocifs.cli.options import document_options, json_option
from ocifs.cli.types import Size, parse_size
from ocifs.errors import MountError
from ocifs.mount.options import MountOptions
from ocifs.options import Options
from ocifs.snapshotter.settings import (
    DEFAULT_ADDRESS,
    DEFAULT_CONTAINERD,
    DEFAULT_IDLE,
    DEFAULT_INDEX_UP_TO,
    DEFAULT_ROOT,
    SnapshotterSettings,
)
from ocifs.sources.registry.access import CONTAINERD_HOSTS

F = TypeVar("F", bound=Callable[..., Any])


class _Snapshotter(Group):
    """A group whose default command is `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["serve", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Snapshotter, subcommand_metavar="[COMMAND] [OPTIONS]")
def snapshotter() -> None:
    """Serve images to containerd, for root: containers start before their image is downloaded.

    `ocifs snapshotter` means `ocifs snapshotter serve`, whose options `ocifs help snapshotter serve` lists.

    \b
    Try:  ocifs snapshotter
          ocifs snapshotter unit >/etc/systemd/system/ocifs-snapshotter.service
    """


_root_option = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_ROOT,
    show_default=True,
    metavar="DIR",
    help="Directory of the snapshots.",
)
_address_option = click.option(
    "--address",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_ADDRESS,
    show_default=True,
    metavar="SOCKET",
    help="Unix socket of the snapshotter.",
)


def _index_option(default: int | None) -> Callable[[F], F]:
    return click.option(
        "--index-up-to",
        type=Size(),
        default=default,
        show_default=True if default is not None else "that of the running one, else 16MiB",
        cls=Option,
        help="Index layers of up to SIZE that have no index.",
        details="SIZE is that of all such layers of an image together. containerd unpacks an image that has more.",
    )


@snapshotter.command(short_help="Run the snapshotter (the default).")
@document_options
@serving_options
@_root_option
@_address_option
@click.option(
    "--idle",
    type=click.FloatRange(0, 1e6),
    default=DEFAULT_IDLE,
    show_default=True,
    metavar="SECONDS",
    help="Unmount images without a container after SECONDS (0: never).",
)
@_index_option(DEFAULT_INDEX_UP_TO)
@click.option(
    "--image-service",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="SOCKET",
    cls=Option,
    help="Forward CRI's image service, to learn credentials.",
    details="kubelet's --image-service-endpoint=unix://SOCKET makes the imagePullSecrets of Pods known here.",
)
@click.option(
    "--containerd",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_CONTAINERD,
    show_default=True,
    metavar="SOCKET",
    help="containerd's socket, for --image-service.",
)
@click.option("--metrics", metavar="ADDRESS", help="Serve metrics at unix:PATH or 127.0.0.1:PORT.")
def serve(
    options: Options,
    mounting: MountOptions,
    root: Path,
    address: Path,
    idle: float,
    index_up_to: int,
    image_service: Path | None,
    containerd: Path,
    metrics: str | None,
) -> None:
    """Serve containerd's snapshots until interrupted.

    An image is served lazily if its registry has an index of it (`ocifs index push`), or its layers have TOCs (eStargz,
    zstd:chunked). containerd downloads and unpacks all others, and ocifs keeps their files.
    """
    if not mounting.prefetch and options.trust_index is not False:
        raise click.UsageError(
            "--no-prefetch: published indexes are used before they are verified, and only the work in the background "
            "verifies them: limit it with --prefetch-rate, or add --no-trust-index"
        )
    if os.geteuid():
        raise MountError("only root can run the snapshotter, because containerd runs as root")
    settings = SnapshotterSettings(
        root=root.absolute(),
        address=address.absolute(),
        options=_with_hosts(options),
        mounting=replace(mounting, service=True),
        idle=idle,
        index_up_to=index_up_to,
        image_service=image_service.absolute() if image_service else None,
        containerd=containerd.absolute(),
        service=mounting.service,
        metrics=metrics,
    )
    from ocifs.snapshotter.serving import serve as run

    run(settings)


@snapshotter.command(short_help="Print a unit for systemd.")
def unit() -> None:
    """Print a unit for systemd that runs the snapshotter before containerd. Add options to its ExecStart."""
    import sys
    from importlib.resources import files

    template = files("ocifs.snapshotter").joinpath("systemd/ocifs-snapshotter.service").read_text()
    click.echo(template.replace("@OCIFS@", str(Path(sys.executable).with_name("ocifs"))), nl=False)


def _with_hosts(options: Options) -> Options:
    """Use containerd's hosts.toml files unless --hosts-dir names others: a node has its mirrors there."""
    hosts_dir = options.access.hosts_dir or CONTAINERD_HOSTS
    return replace(options, access=replace(options.access, hosts_dir=hosts_dir))


@snapshotter.command(short_help="Diagnose this node.")
@document_options
@_root_option
@_address_option
@click.option("--name", default="ocifs", show_default=True, help="Name of the snapshotter in containerd.")
@click.option(
    "--containerd-config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    show_default="of the running one",
    help="containerd's configuration.",
)
@_index_option(None)
@json_option
@click.argument("images", metavar="[IMAGE...]", nargs=-1)
def check(
    images: tuple[str, ...],
    options: Options,
    root: Path,
    address: Path,
    name: str,
    containerd_config: Path | None,
    index_up_to: int | None,
    as_json: bool,
) -> int:
    """Find out why images are not served lazily: check containerd's configuration, the kernel and the snapshotter.

    Each line is a finding, with what to do. For each IMAGE, such as registry.example/app:1, ocifs also looks for an
    index in its registry, as it does during a pull. The exit status is 1 if there are errors.

    \b
    Try:  ocifs snapshotter check
          ocifs snapshotter check registry.example/app:1
    """
    from ocifs.snapshotter.check.containerd import Expected
    from ocifs.snapshotter.check.node import NodeCheck, running_processes

    if os.geteuid():
        raise MountError("only root can check a node, because containerd's files and sockets are root's")
    with failures_not_as_no():
        options = _with_hosts(options)
        node = NodeCheck(processes=running_processes(), config=containerd_config)
        hosts_dir = options.access.hosts_dir or CONTAINERD_HOSTS
        if index_up_to is None:
            index_up_to = parse_size(node.index_up_to() or "")
        if index_up_to is None:
            index_up_to = DEFAULT_INDEX_UP_TO
        expected = Expected(name, address.absolute(), root.absolute(), hosts_dir, node.has_kubelet, index_up_to)
        has_errors = False
        for finding in node.findings(expected, options, images):
            has_errors = has_errors or finding.level == "error"
            click.echo(msgspec.json.encode(finding) if as_json else str(finding))
    return NO if has_errors else YES
