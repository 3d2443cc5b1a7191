"""The bundle that `ocifs run` makes, and its end, whatever that is.

A process of its own does the cleaning: it waits until nobody holds the other end of a pipe, which this process and the
runtime do for as long as they live. So it cleans in the same way when a container has ended and when this process was
killed. It knows the runtime and the bundle from before its fork, and reads nothing back. `ocifs umount` does the same
when that process was killed as well: then it looks up the runtime anew, by the one word that the bundle names it by.
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
"""A file in the bundle with the name of the program that runs it; it also tells such a bundle from others."""
_NAME_MAX = 255


@contextmanager
def cleaned_up(place: TrustedDirectory, bundle: TrustedDirectory, runtime: str, *, keep: bool) -> Iterator[int]:
    """Have the container of `bundle` end, and all of it removed but for `keep`, when this ends or the process does.

    `bundle` lies in `place`. Yields the descriptor that holds this off for whoever has it open.
    """
    bundle.write_file(_RUNTIME, os.fsencode(os.path.basename(runtime)))
    waiting, held = os.pipe()
    process = os.fork()
    if process == 0:
        os._exit(_clean_when_left(waiting, place, bundle, runtime, keep=keep))
    os.close(waiting)
    try:
        yield held
    finally:
        os.close(held)
        _, status = os.waitpid(process, 0)
        if os.WIFSIGNALED(status):
            _clean(place, bundle.path, runtime, keep=keep)


def is_container(directory: str) -> bool:
    """Whether `ocifs run` of this user has made the bundle `directory`, which other users cannot have changed."""
    if mount_at(directory) is not None:  # no bundle, so its content is not touched
        return False
    try:
        TrustedDirectory.open(Path(directory)).read_file(_RUNTIME, _NAME_MAX)
    except OSError:
        return False
    return True


def remove_container(bundle: str) -> None:
    """End the container that `ocifs run` has started, and remove its bundle. Raises OcifsError."""
    path = Path(bundle)
    try:
        place = TrustedDirectory.open_shared(path.parent)
        name = os.fsdecode(place.directory(path.name).read_file(_RUNTIME, _NAME_MAX))
    except OSError as error:
        raise untrusted(bundle, error) from None
    if (path / "state" / path.name).exists():
        Container(_runtime_called(name, path), path).delete()
    _remove(place, path)


def _runtime_called(name: str, bundle: Path) -> str:
    """Return the path of the runtime that a bundle names: only one of those that ocifs itself looks up."""
    if name not in RUNTIMES:
        shown = printable_path(str(bundle))
        raise MountError(
            f"{shown} was run by {printable_path(name)}, which is neither of {' and '.join(RUNTIMES)}: "
            f"delete its container with that runtime (--root {shown}/state), then try again"
        )
    return find_runtime(name)


def _clean(place: TrustedDirectory, bundle: Path, runtime: str, *, keep: bool) -> None:
    Container(runtime, bundle).delete()
    if not keep:
        _remove(place, bundle)


def _remove(place: TrustedDirectory, bundle: Path) -> None:
    unmount_bundle(str(bundle), lazy=True)
    remove_tree(place, bundle.name)


def _clean_when_left(
    waiting: int, place: TrustedDirectory, bundle: TrustedDirectory, runtime: str, *, keep: bool
) -> int:
    """Wait, clean, and return an exit status. Signals that end the others do not reach it."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    kept = [2, *sorted({waiting, place.fd, bundle.fd}), os.sysconf("SC_OPEN_MAX")]
    for below, above in pairwise(kept):
        os.closerange(below + 1, above)
    os.read(waiting, 1)
    try:
        _clean(place, bundle.path, runtime, keep=keep)
    except OcifsError as error:
        sys.stderr.write(f"ocifs: {printable_path(str(error))}\n")
        sys.stderr.flush()
        return error.exit_code
    return 0
