"""`ocifs service`: keep mounts when the process that serves them dies, and start mounts fast."""

import os
from pathlib import Path
from typing import Literal

import click
import msgspec

from ocifs.cli.command import command
from ocifs.cli.types import Size
from ocifs.errors import MountError
from ocifs.mount.record import LOG, runtime_directory
from ocifs.service.notify import is_journal
from ocifs.service.protocol import KeeperSettings

_DEFAULTS = KeeperSettings()


@command()
@click.option("--foreground", "-f", is_flag=True, help="Run in the foreground, as under systemd.")
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    show_default="the journal under systemd, else ocifs.log in the runtime directory",
    help="Log of the service.",
)
@click.option(
    "--restart-limit",
    type=click.IntRange(0, 100000),
    default=_DEFAULTS.restart_limit,
    show_default=True,
    metavar="N",
    help="Give a mount up after N restarts of its process within a minute.",
)
@click.option(
    "--idle",
    type=click.FloatRange(0, 86400),
    default=_DEFAULTS.idle_seconds,
    show_default=True,
    metavar="SECONDS",
    help="Free the memory of a mount after SECONDS without reads; 0: never.",
)
@click.option(
    "--span-cache",
    type=Size(),
    default=_DEFAULTS.span_cache,
    show_default=True,
    help="Memory for decoded data of all mounts together; 0: each has its own.",
)
@click.option("--metrics", metavar="ADDRESS", help="Serve metrics at unix:PATH or 127.0.0.1:PORT.")
@click.argument("action", type=click.Choice(["start", "upgrade", "status", "stop", "unit"]), default="start")
def service(
    action: Literal["start", "upgrade", "status", "stop", "unit"],
    foreground: bool,
    log: Path | None,
    restart_limit: int,
    idle: float,
    span_cache: int,
    metrics: str | None,
) -> None:
    """Run the service, for root: mounts of the erofs engine then start faster, and survive the end of their process.

    \b
    start    start the service (the default)
    upgrade  replace the running service by one of this version; mounts continue
    status   show whether it runs, its version, and how many mounts it keeps
    stop     stop the service; its mounts continue, and the next one keeps them
    unit     print a unit for systemd

    \b
    Try:  ocifs service
          ocifs mount ./debian:latest /mnt
    """
    from ocifs.service import starting

    if action == "unit":
        click.echo(_unit(), nl=False)
        return
    if os.geteuid():
        raise MountError("the service is for root: other users mount with the fuse engine, as without it")
    if action == "start":
        settings = _settings(log, restart_limit, metrics)
        settings = msgspec.structs.replace(settings, idle_seconds=idle, span_cache=span_cache)
        if foreground:
            starting.run_in_foreground(settings)
        starting.start(settings)
    elif action == "upgrade":
        starting.upgrade()
    elif action == "status":
        from ocifs.report.text import human_size, local_time

        pong = starting.ping()
        click.echo(f"ocifs {pong.version}, process {pong.pid} since {local_time(pong.since)}, mounts: {pong.mounts}")
        if limit := pong.settings.span_cache:
            click.echo(
                f"decoded: {human_size(pong.spans)} of at most {human_size(limit)}, "
                f"shared between mounts: {human_size(pong.shared_spans)}"
            )
        if starting.is_outdated(pong):
            click.echo("ocifs was installed again since then: run `ocifs service upgrade` to use the new code")
    elif mounts := starting.stop():
        click.echo(f"ocifs: mounts that continue without a service: {mounts}: `ocifs service` keeps them", err=True)


def _settings(log: Path | None, restart_limit: int, metrics: str | None) -> KeeperSettings:
    """Return the settings of a new service. Raises BadParameter, MountError."""
    from ocifs.service.exporter import check_address

    if metrics is not None:
        try:
            check_address(metrics)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--metrics") from None
    journal = log is None and is_journal(2)
    if log is None and not journal:
        log = runtime_directory().path / LOG
    return KeeperSettings(
        log=None if log is None else str(log.absolute()), journal=journal, restart_limit=restart_limit, metrics=metrics
    )


def _unit() -> str:
    """Return the unit for systemd, with the path of this command."""
    import sys
    from importlib.resources import files

    template = files("ocifs.service").joinpath("systemd/ocifs.service").read_text()
    return template.replace("@OCIFS@", str(Path(sys.executable).with_name("ocifs")))
