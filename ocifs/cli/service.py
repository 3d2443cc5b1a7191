"""`ocifs service`: keep mounts when the process that serves them dies, and start mounts fast."""

import os
from pathlib import Path
from typing import Literal

import click

from ocifs.cli.command import command
from ocifs.errors import MountError
from ocifs.mount.record import LOG, runtime_directory
from ocifs.service.notify import is_journal
from ocifs.service.protocol import Settings


@command()
@click.option("--foreground", "-f", is_flag=True, help="Run in the foreground, as under systemd.")
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Log file of the service.  [default: the journal under systemd, else ocifs.log in the runtime directory]",
)
@click.option(
    "--restart-limit",
    type=click.IntRange(0, 100000),
    default=5,
    show_default=True,
    metavar="N",
    help="Give a mount up after N restarts of its process within a minute.",
)
@click.argument("action", type=click.Choice(["start", "upgrade", "status", "stop"]), default="start")
def service(
    action: Literal["start", "upgrade", "status", "stop"], foreground: bool, log: Path | None, restart_limit: int
) -> None:
    """Run the service, for root: mounts of the erofs engine then start faster, and survive the end of their process.

    \b
    start    start the service (the default)
    upgrade  replace the running service by one of this version; mounts go on
    status   show whether it runs, its version, and how many mounts it keeps
    stop     stop the service; its mounts go on, and the next service keeps them

    \b
    Try:  ocifs service
          ocifs mount ./debian:latest /mnt
    """
    from ocifs.service import starting

    if os.geteuid():
        raise MountError("the service is for root: other users mount with the fuse engine, as without it")
    if action == "start":
        if log is None and not is_journal(2):
            log = runtime_directory().path / LOG
        settings = Settings(log=None if log is None else str(log.absolute()), restart_limit=restart_limit)
        if foreground:
            starting.run_in_foreground(settings)
        starting.start(settings)
    elif action == "upgrade":
        starting.upgrade()
    elif action == "status":
        from ocifs.report.text import local_time

        pong = starting.ping()
        click.echo(f"ocifs {pong.version}, process {pong.pid} since {local_time(pong.since)}, mounts: {pong.mounts}")
    else:
        mounts = starting.stop()
        if mounts:
            click.echo(f"ocifs: {mounts} mounts go on without a service; `ocifs service` keeps them again", err=True)
