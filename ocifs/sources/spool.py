"""Archives that arrive as a stream: from standard input, or from another program.

An archive needs random access. Standard input that is a regular file is used in place; the bytes of a stream are copied
to a temporary file without a name, in `$TMPDIR`, up to a limit. The file disappears with its last descriptor. It does
not know what the bytes mean.
"""

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator

from ocifs.errors import NotFoundError, OcifsError, UnsupportedError, printable_path
from ocifs.limits import Limits

NAME = "standard input"
"""Its name in messages."""

_CHUNK = 1 << 20


def open_stdin(limits: Limits, warn: Callable[[str], None], stdin: int = 0, directory: str | None = None) -> int:
    """Return a descriptor of a regular file with the bytes of standard input; the caller closes it.

    `warn` gets a notice if they are copied, to `directory`, by default `$TMPDIR`.

    Raises:
        NotFoundError: It is empty or closed.
        UnsupportedError: It is a terminal or a directory.
        LimitError: It has more than `limits.spool` bytes.
        OcifsError: It cannot be read, or `$TMPDIR` cannot be written.
    """
    try:
        mode = os.fstat(stdin).st_mode
        if stat.S_ISREG(mode) and os.lseek(stdin, 0, os.SEEK_CUR) == 0:
            # A descriptor of its own, whose flags and offset no other process shares.
            return os.open(f"/proc/self/fd/{stdin}", os.O_RDONLY | os.O_CLOEXEC)
        if stat.S_ISDIR(mode) or os.isatty(stdin):
            kind = "a directory" if stat.S_ISDIR(mode) else "a terminal"
            raise UnsupportedError(f"{NAME} is {kind}: pipe an archive into it: `docker save NAME | ocifs ls -`")
        head = os.read(stdin, _CHUNK)
    except OSError as error:
        raise NotFoundError(f"cannot read {NAME}: {error.strerror}") from error
    if not head:
        raise NotFoundError(f"{NAME} is empty: the archive was read already, or the command before the pipe failed")
    directory = directory or tempfile.gettempdir()
    warn(f"{NAME} is not a file: copying it to {printable_path(directory)} (TMPDIR)")
    return spool(_pieces(head, stdin), NAME, limits, directory)


def spool(pieces: Iterable[bytes], name: str, limits: Limits, directory: str | None = None) -> int:
    """Copy bytes to a temporary file without a name, in `directory`, by default `$TMPDIR`; return its descriptor.

    Raises the errors of `pieces`, and

        LimitError: There are more than `limits.spool` bytes.
        OcifsError: The directory cannot be written.
    """
    directory = directory or tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            for data in bounded(pieces, name, limits):
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
            return os.dup(file.fileno())
    except OSError as error:
        raise OcifsError(
            f"cannot copy {name} to {printable_path(directory)}: {error.strerror}: set TMPDIR to a directory with space"
        ) from error


def bounded(pieces: Iterable[bytes], name: str, limits: Limits) -> Iterator[bytes]:
    """Yield `pieces`; raise LimitError once they have more than `limits.spool` bytes."""
    size = 0
    for data in pieces:
        size += len(data)
        if size > limits.spool:
            raise limits.passed("spool", f"{name} has more than {limits.spool} bytes")
        yield data


def _pieces(data: bytes, stdin: int) -> Iterator[bytes]:
    """Yield `data` and the rest of `stdin`."""
    while data:
        yield data
        data = os.read(stdin, _CHUNK)
