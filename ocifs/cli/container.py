"""Cleaning up the bundle of `ocifs run`, however the run ends.

A forked process cleans up. It waits for the end of a pipe that this process and the runtime hold open for as long as
they live, so it cleans up in the same way after a container has ended and after this process was killed. It knows the
runtime and the bundle from before its fork, and reads nothing back. If that process was killed as well, `ocifs umount`
cleans up: it looks the runtime up again by the name recorded in the bundle.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from ocifs.bundle.runtime import RUNTIMES, Container, find_runtime
from ocifs.errors import MountError, OcifsError, printable_path
from ocifs.mount.mountinfo import mount_at
from ocifs.mount.overlay import remove_tree, untrusted
from ocifs.mount.unmount import unmount_bundle
from ocifs.trusted_directory import TrustedDirectory

_RUNTIME = "runtime"
"""The file in the bundle that names the runtime; it also marks a bundle as one of `ocifs run`."""
_NAME_MAX = 255


@contextmanager
def cleaned_up(parent: TrustedDirectory, bundle: TrustedDirectory, runtime: str, *, keep: bool) -> Iterator[int]:
    """Delete the container of `bundle` and, unless `keep`, its bundle when the context or this process ends.

    `bundle` is a directory in `parent`. Yield a descriptor; the clean-up waits until every process has closed it.
    """
    bundle.write_file(_RUNTIME, os.fsencode(os.path.basename(runtime)))
    waiting, held = os.pipe()
    process = os.fork()
    if process == 0:
        os._exit(_wait_and_clean(waiting, parent, bundle, runtime, keep=keep))
    os.close(waiting)
    try:
        yield held
    finally:
        os.close(held)
        _, status = os.waitpid(process, 0)
        if os.WIFSIGNALED(status):
            _clean(parent, bundle.path, runtime, keep=keep)


def is_container(directory: str) -> bool:
    """Whether `ocifs run` of this user made the bundle `directory`, and no other user can have changed it."""
    if mount_at(directory) is not None:  # a mountpoint is not a bundle, and reading it may hang
        return False
    try:
        TrustedDirectory.open(Path(directory)).read_file(_RUNTIME, _NAME_MAX)
    except OSError:
        return False
    return True


def remove_container(bundle: str) -> None:
    """Delete a container that `ocifs run` started, and its bundle. Raises OcifsError."""
    path = Path(bundle)
    try:
        parent = TrustedDirectory.open_shared(path.parent)
        name = os.fsdecode(parent.directory(path.name).read_file(_RUNTIME, _NAME_MAX))
    except OSError as error:
        raise untrusted(bundle, error) from None
    if (path / "state" / path.name).exists():
        Container(_find_named_runtime(name, path), path).delete()
    _remove(parent, path)


def _find_named_runtime(name: str, bundle: Path) -> str:
    """Return the path of the runtime that a bundle names, if it is one that ocifs looks up itself."""
    if name not in RUNTIMES:
        shown = printable_path(str(bundle))
        raise MountError(
            f"{shown} was run by {printable_path(name)}, not by {' or '.join(RUNTIMES)}: "
            f"delete its container with that runtime (--root {shown}/state), then try again"
        )
    return find_runtime(name)


def _clean(parent: TrustedDirectory, bundle: Path, runtime: str, *, keep: bool) -> None:
    Container(runtime, bundle).delete()
    if not keep:
        _remove(parent, bundle)


def _remove(parent: TrustedDirectory, bundle: Path) -> None:
    unmount_bundle(str(bundle), lazy=True)
    remove_tree(parent, bundle.name)


def _wait_and_clean(
    waiting: int, parent: TrustedDirectory, bundle: TrustedDirectory, runtime: str, *, keep: bool
) -> int:
    """Wait, clean up, and return an exit status. Ignores the signals that end the other processes."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    keep_open = [2, *sorted({waiting, parent.fd, bundle.fd}), os.sysconf("SC_OPEN_MAX")]
    for below, above in pairwise(keep_open):
        os.closerange(below + 1, above)
    os.read(waiting, 1)
    try:
        _clean(parent, bundle.path, runtime, keep=keep)
    except OcifsError as error:
        sys.stderr.write(f"ocifs: {printable_path(str(error))}\n")
        sys.stderr.flush()
        return error.exit_code
    return 0
