"""The bundle that `ocifs run` makes, and its end, whatever that is.

A process of its own does the cleaning: it waits until nobody holds the other end of a pipe, which this process and the
runtime do for as long as they live. So it cleans in the same way when a container has ended and when this process was
killed. `ocifs umount` does the same when that process was killed as well.
"""

import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ocifs.bundle.runtime import Container
from ocifs.errors import OcifsError
from ocifs.mount.ending import end_bundle
from ocifs.mount.overlay import remove_tree

_RUNTIME = "runtime"
"""A symlink in the bundle to the program that runs it; it also tells such a bundle from others."""


@contextmanager
def cleaned_up(bundle: Path, runtime: str, *, keep: bool) -> Iterator[int]:
    """Have the container of `bundle` end, and all of it removed but for `keep`, when this ends or the process does.

    Gives the descriptor that holds this off for whoever has it open.
    """
    (bundle / _RUNTIME).symlink_to(runtime)
    waiting, held = os.pipe()
    process = os.fork()
    if process == 0:
        os._exit(_clean_when_left(waiting, bundle, keep=keep))
    os.close(waiting)
    try:
        yield held
    finally:
        os.close(held)
        _, status = os.waitpid(process, 0)
        if os.WIFSIGNALED(status):
            _clean(bundle, keep=keep)


def is_container(directory: str) -> bool:
    """Whether `ocifs run` of this user has made the bundle `directory`."""
    try:
        status = os.lstat(directory)
        return (
            os.path.islink(os.path.join(directory, _RUNTIME))
            and status.st_uid == os.geteuid()
            and stat.S_IMODE(status.st_mode) & 0o077 == 0
        )
    except OSError:
        return False


def remove_container(bundle: str) -> None:
    """End the container that `ocifs run` has started, and remove its bundle. Raises MountError."""
    Container(os.path.join(bundle, _RUNTIME), Path(bundle)).delete()
    end_bundle(bundle, lazy=True)
    remove_tree(Path(bundle))


def _clean(bundle: Path, *, keep: bool) -> None:
    if keep:
        Container(str(bundle / _RUNTIME), bundle).delete()
    else:
        remove_container(str(bundle))


def _clean_when_left(waiting: int, bundle: Path, *, keep: bool) -> int:
    """Wait, clean, and return an exit status. Signals that end the others do not reach it."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(waiting, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    os.read(3, 1)
    try:
        _clean(bundle, keep=keep)
    except OcifsError as error:
        sys.stderr.write(f"ocifs: {error}\n")
        sys.stderr.flush()
        return error.exit_code
    return 0
