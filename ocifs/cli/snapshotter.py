"""`ocifs snapshotter`: serve images to containerd, which runs containers on them without unpacking."""

import os
from pathlib import Path

import click
from msgspec.structs import replace

from ocifs.cli.command import Group, Option
from ocifs.cli.mount_options import serving_options
from ocifs.cli.options import document_options
from ocifs.cli.types import Size
from ocifs.errors import MountError
from ocifs.mount.options import MountOptions
from ocifs.options import Options


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


@snapshotter.command(short_help="Run the snapshotter (the default).")
@document_options
@serving_options
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/ocifs/snapshotter"),
    show_default=True,
    metavar="DIR",
    help="Directory of the snapshots.",
)
@click.option(
    "--address",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/run/ocifs/snapshotter.sock"),
    show_default=True,
    metavar="SOCKET",
    help="Unix socket to listen on.",
)
@click.option(
    "--idle",
    type=click.FloatRange(0, 1e6),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Unmount images without a container after SECONDS (0: never).",
)
@click.option(
    "--index-up-to",
    type=Size(),
    default=16 << 20,
    show_default=True,
    cls=Option,
    help="Index layers of up to SIZE that have no index.",
    details="SIZE is that of all such layers of an image together. containerd unpacks an image that has more.",
)
@click.option("--metrics", metavar="ADDRESS", help="Serve metrics at unix:PATH or 127.0.0.1:PORT.")
def serve(
    options: Options,
    mounting: MountOptions,
    root: Path,
    address: Path,
    idle: float,
    index_up_to: int,
    metrics: str | None,
) -> None:
    """Serve containerd's snapshots until interrupted.

    An image is served lazily if its registry has an index of it (`ocifs index push`), or its layers have TOCs (eStargz,
    zstd:chunked). containerd downloads and unpacks all others, and ocifs keeps their files.
    """
    if os.geteuid():
        raise MountError("the snapshotter is for root, as containerd is")
    from ocifs.snapshotter.settings import Settings

    settings = Settings(
        root=root.absolute(),
        address=address.absolute(),
        options=options,
        mounting=replace(mounting, service=True),
        idle=idle,
        index_up_to=index_up_to,
        service=mounting.service,
        metrics=metrics,
    )
    from ocifs.snapshotter.serving import serve as run

    run(settings)
