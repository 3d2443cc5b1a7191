"""The entry point of `ocifs`. It starts slow work that needs no answer yet before it imports anything.

That work is the daemon of a command that mounts: it imports as much as this process.
"""

import gc
import os
import resource
import signal
import sys
from contextlib import nullcontext

from ocifs.service import VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:  # without an import of typing
    from ocifs.service.client import Mounter

_GARBAGE = 1_000_000
"""Allocations between runs of Python's cycle collector: most objects of a command live to its end."""

_MOUNTING = {"mount", "bundle", "run"}
_COMPLETE = "__complete"
"""The command of the completion scripts (`ocifs.cli.complete`)."""


def main() -> None:
    """Run the command line, and exit."""
    if sys.argv[1:2] == [_COMPLETE]:
        from ocifs.cli.complete.answer import main as complete

        sys.exit(complete(sys.argv[2:]))
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:  # before any handler exists
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_closed_streams()
    _allow_many_files()
    gc.set_threshold(_GARBAGE)
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    if verb in VERBS and (done := _delegated(verb)) is not None:
        sys.exit(done)
    early = _mounter() if verb in _MOUNTING else None
    with early or nullcontext():
        from ocifs.cli.verbs import INTERRUPTED, run

        signal.signal(signal.SIGINT, interrupted)
        try:
            status = run(sys.argv[1:], early)
        except KeyboardInterrupt:  # a second one, while `run` reported the first
            status = INTERRUPTED
        if interrupted is signal.default_int_handler:  # from here on it ends the process at once
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.freeze()  # otherwise Python runs the cycle collector over all objects once more before it exits
    sys.exit(status)


def _delegated(verb: str) -> int | None:
    """Have the service run the command; return its exit status, or None if this process has to run it."""
    from ocifs.service.delegation import delegate

    return delegate(verb, sys.argv[1:])


def _mounter() -> "Mounter":
    """Start the daemon."""
    from ocifs.service.client import Mounter

    try:
        return Mounter(sys.argv[1:])
    except OSError as error:
        sys.exit(f"ocifs: cannot start the daemon: {error.strerror}")


def _open_closed_streams() -> None:
    """Replace each closed standard stream, so that no file of ours takes its descriptor.

    The replacement of stdout rejects writes, like the closed stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _allow_many_files() -> None:
    """Raise the soft limit on open files to the hard limit: each layer needs two, and an image may have hundreds."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
