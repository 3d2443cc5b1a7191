"""The process of a keeper: `python -m ocifs.service.main START`, where START is a `Start` in JSON.

It starts as the service, as the successor of the running service, or as the keeper of a single mount.
"""

import fcntl
import importlib
import logging
import os
import resource
import socket
import sys
from functools import partial
from typing import Final, Literal

import msgspec

from ocifs.errors import MountError, OcifsError, printable_path
from ocifs.mount.daemon import load_modules, open_log, reportable
from ocifs.mount.mount_identity import leave_private_namespace
from ocifs.mount.record import KEEPER_NAME, SOCKET, from_json, runtime_directory
from ocifs.service.caller import COMMANDS
from ocifs.service.commands import CommandLine, Commands
from ocifs.service.exporter import Exporter, listen
from ocifs.service.handover import adopt, give, take
from ocifs.service.keeper import Keeper
from ocifs.service.mounts import Mounts
from ocifs.service.notify import JournalHandler, notify
from ocifs.service.protocol import LOCK, KeeperSettings, listen_in, unusable
from ocifs.service.template import Template, name_process
from ocifs.service.worker import warm_up, work
from ocifs.trusted_directory import TrustedDirectory

_CODECS: Final = ("ocifs.compression.codecs", "zlib_ng.zlib_ng", "zstandard")
"""What serving a mount loads on demand."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a keeper."""

    what: Literal["service", "successor", "single"]
    settings: KeeperSettings
    connection: int = -1
    """Descriptor of the socket to the running service, or to the command of the single mount."""
    ready: int = -1
    """Descriptor to write to once it is ready: nothing, or an error in a line."""


def main(arguments: list[str], command_line: CommandLine | None = None) -> int:
    """Run a keeper, which runs commands with `command_line`; return the exit status."""
    start = from_json(os.fsencode(arguments[0]), Start)
    name_process(KEEPER_NAME)
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        os.chdir("/")
        load_all()
        if start.what == "single":  # the worker enters it, and the mount ends with it
            leave_private_namespace()
        warm_up()
        _run(start, Template(work), command_line)
    except (OcifsError, OSError, MemoryError, RuntimeError, ImportError) as error:
        failure = reportable(error)
        _report(start.ready, f"{failure.exit_code} {printable_path(str(failure))}")
        return failure.exit_code
    return 0


def load_all() -> None:
    """Import what workers need, so that an upgrade on disk never mixes two versions in one process."""
    load_modules()
    for name in _CODECS:
        importlib.import_module(name)


def _run(start: Start, template: Template, command_line: CommandLine | None) -> None:
    runtime = runtime_directory()
    mounts = Mounts(runtime, template, journal=start.settings.journal, idle_seconds=start.settings.idle_seconds)
    if start.what == "single":
        _open_log(start.settings, runtime)
        keeper = Keeper(mounts, None, start.settings)
        keeper.adopt(socket.socket(fileno=start.connection))
        keeper.run()
        return
    settings = start.settings
    if start.what == "successor":
        with socket.socket(fileno=start.connection) as connection:
            taken = take(connection)
        listener, lock, metrics, settings = taken.listener, taken.lock, taken.metrics, taken.settings
        mounts.journal, mounts.idle_seconds = settings.journal, settings.idle_seconds
        for served in taken.mounts:
            mounts.add(served)
    else:
        lock = _lock(runtime)
        metrics = None if settings.metrics is None else listen(settings.metrics)
        listener = listen_in(runtime, SOCKET)
    _open_log(settings, runtime)
    _report(start.ready, "")
    notify("READY=1", f"MAINPID={os.getpid()}")
    exporter = None if metrics is None else Exporter(metrics)
    commands = None if command_line is None else Commands(runtime, command_line)
    keeper = Keeper(mounts, listener, settings, exporter, commands)
    keeper.run(partial(_give, lock), partial(adopt, mounts, runtime))
    notify("STOPPING=1")
    runtime.unlink(SOCKET)
    runtime.unlink(COMMANDS)


def _give(lock: int, keeper: Keeper, successor: socket.socket) -> bool:
    if give(keeper, lock, successor):
        os._exit(0)  # the socket and the mounts are those of the successor
    return False


def _lock(runtime: TrustedDirectory) -> int:
    """Lock the file that only one service has. Raises MountError."""
    try:
        lock = runtime.open_file(LOCK, os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MountError(
            f"the service already runs in {printable_path(str(runtime.path))}: `ocifs service upgrade` replaces it"
        ) from None
    except OSError as error:
        raise unusable(runtime, LOCK, error) from None
    return lock


def _open_log(settings: KeeperSettings, runtime: TrustedDirectory) -> None:
    if settings.log is None and settings.journal:
        logging.getLogger().addHandler(JournalHandler())
    else:
        open_log(settings.log, runtime)


def _report(ready: int, message: str) -> None:
    """Tell the process that has started this one that it is ready, or has failed; then write to the log only."""
    if ready < 0:
        if message:
            sys.stderr.write(f"ocifs: {message.partition(' ')[2]}\n")
        return
    os.write(ready, message.encode() or b"\n")
    os.close(ready)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
