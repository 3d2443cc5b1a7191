"""The process of the service: `python -m ocifs.cli.keeper START`, a keeper that also runs commands for callers.

The command line is loaded only in a process that the keeper forks (`ocifs.service.commands`).
"""

import os
import socket
import sys

from ocifs.service.caller import interpreter
from ocifs.service.commands import CommandLine
from ocifs.service.main import main as keep


def main(arguments: list[str]) -> int:
    """Run the keeper of the service; return the exit status."""
    installed = interpreter(dict(os.environb))  # read it before an upgrade replaces the files

    def load() -> None:
        from ocifs.cli import served

        served.load()

    def serve(connection: socket.socket) -> int:
        from ocifs.cli import served

        return served.serve(connection, installed)

    return keep(arguments, CommandLine(load, serve))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
