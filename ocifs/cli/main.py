"""The `ocifs` command begins here: whatever takes long and needs no answer yet is begun before anything is imported.

That is the daemon of a verb that mounts: it has as much to import as this process has.
"""

import gc
import os
import resource
import signal
import sys
from contextlib import nullcontext

from ocifs.mount.process import Daemon

_GARBAGE = 1_000_000
"""Objects after which Python looks for cycles among all there are: what a command makes mostly lives to its end."""

_MOUNTING = {"mount", "bundle", "run"}


def main() -> None:
    """Run the command line, and exit."""
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:  # which nobody would catch yet
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_closed_streams()
    _allow_many_files()
    gc.set_threshold(_GARBAGE)
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        early = Daemon() if verb in _MOUNTING else None
    except OSError as error:
        sys.exit(f"ocifs: cannot start the daemon: {error.strerror}")
    with early or nullcontext():
        from ocifs.cli.verbs import INTERRUPTED, run

        signal.signal(signal.SIGINT, interrupted)
        try:
            status = run(sys.argv[1:], early)
        except KeyboardInterrupt:  # a second one, while `run` reported the first
            status = INTERRUPTED
        if interrupted is signal.default_int_handler:  # nothing catches it from here on: it ends the process at once
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.freeze()  # else Python looks for cycles among all there is once more, before it ends
    sys.exit(status)


def _open_closed_streams() -> None:
    """Put something in place of each standard stream that is closed: else a file of ours would become one.

    What is in place of stdout cannot be written, as the closed one could not.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _allow_many_files() -> None:
    """Raise the soft limit on open files to the hard one: each layer takes two, and an image may have hundreds."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
