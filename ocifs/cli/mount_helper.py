"""`mount.ocifs` and `mount.fuse.ocifs`: what mount(8) runs for an fstab entry of these types.

    mount.ocifs IMAGE DIRECTORY [-sfnv] [-t TYPE] [-o OPTIONS]

It runs `ocifs mount --keep`, with exit statuses of mount(8). At boot the environment may lack PATH, which fusermount3
and credential helpers are found by. This module imports next to nothing before the daemon starts (`ocifs.cli.main`).
"""

import getopt
import os
import sys
from typing import NamedTuple

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USAGE = 1
_FAILURE = 32
"""Exit statuses of mount(8): incorrect invocation, and failure."""


class Call(NamedTuple):
    """The command line of a mount helper."""

    image: str
    mountpoint: str
    options: str
    verbose: bool
    fake: bool
    """Do everything but mount."""
    sloppy: bool
    """Ignore unknown options."""


def main() -> None:
    """Mount, and exit with a status of mount(8)."""
    os.environ.setdefault("PATH", _PATH)
    try:
        call = parse(sys.argv[1:])
    except ValueError as error:
        sys.stderr.write(f"mount.ocifs: {error}\nUsage: mount.ocifs IMAGE DIRECTORY [-sfnv] [-o OPTIONS]\n")
        sys.exit(_USAGE)
    if call.sloppy:
        call = call._replace(options=_known(call.options))
    if call.fake:
        sys.exit(_status(_check(call)))
    from ocifs.cli.main import main as ocifs

    sys.argv = ["ocifs", *mount_arguments(call)]
    try:
        ocifs()
    except SystemExit as end:
        sys.exit(_status(end.code if isinstance(end.code, int) else 1))


def parse(arguments: list[str]) -> Call:
    """Parse the command line. Raises ValueError, with a message for the user."""
    try:
        flags, positional = getopt.gnu_getopt(arguments, "sfnvo:t:")
    except getopt.GetoptError as error:
        raise ValueError(error.msg) from None
    if len(positional) != 2:
        raise ValueError(f"{len(positional)} arguments instead of an image and a directory")
    names = {name for name, _ in flags}
    image, mountpoint = positional
    return Call(
        image,
        mountpoint,
        options=",".join(value for name, value in flags if name == "-o"),
        verbose="-v" in names,
        fake="-f" in names,
        sloppy="-s" in names,
    )


def mount_arguments(call: Call) -> list[str]:
    """Return the arguments of `ocifs` for a call."""
    verbose = ["--verbose"] if call.verbose else []
    return ["mount", "--keep", *verbose, f"--options={call.options}", "--", call.image, call.mountpoint]


def _known(options: str) -> str:
    from ocifs.cli.fstab_options import is_known, quoted, split
    from ocifs.cli.mount import mount

    return ",".join(quoted(word) for word in split(options) if is_known(word, mount.params))


def _check(call: Call) -> int:
    """Check the options and the form of a call, without mounting; return the exit status of ocifs."""
    import click

    from ocifs.cli.mount import mount
    from ocifs.cli.usage import usage_lines

    try:
        mount.make_context("ocifs mount", mount_arguments(call)[1:])
    except click.UsageError as error:
        sys.stderr.write("\n".join(usage_lines(error)) + "\n")
        return error.exit_code
    return 0


def _status(code: int) -> int:
    """Return the exit status of mount(8) for one of ocifs."""
    return {0: 0, 2: _USAGE}.get(code, _FAILURE)


if __name__ == "__main__":
    main()
