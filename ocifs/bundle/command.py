"""Check, before a container starts, that its command can be executed: the program, its interpreter, its machine.

This follows execve(2) and the search of execvp(3), in the tree image and in what is mounted on it. It decides only what
these files decide: the rest, such as a path in /proc, is left to the kernel. Exit statuses are those of env(1): 127 if
a file does not exist, 126 for every other reason.
"""

import errno
import os
import stat
import struct
from collections.abc import Mapping

import msgspec

from ocifs.bundle.container_files import ContainerFiles, File, FileStatus, MountedSource, UndecidedError
from ocifs.bundle.machine import can_execute
from ocifs.errors import NotFoundError, UnsupportedError, printable
from ocifs.image.rootfs import Rootfs
from ocifs.spec.document import shown

_HEAD = 4096
_SCRIPT = b"#!"
_ELF = b"\x7fELF"
_LINE_MAX = 256
"""BINPRM_BUF_SIZE of Linux: the part of a script in which it looks for the interpreter."""
_INTERPRETERS = 4
"""The number of scripts that Linux accepts as interpreters of each other."""
_PT_INTERP = 3
_PROGRAM_HEADERS = 64
_WHY = {
    errno.ENOTDIR: "a file of its path is not a directory",
    errno.EACCES: "the user may not enter a directory of its path",
    errno.E2BIG: "the search for it takes too many lookups: name its path",
}
"""Why a lookup fails, where the kernel's words would say too little."""


class CommandNotFoundError(NotFoundError):
    """The command, or its interpreter, does not exist in the container."""

    exit_code = 127


class NotExecutableError(UnsupportedError):
    """The command exists, but cannot be executed."""

    exit_code = 126


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """A command, and what the search for its program depends on."""

    command: str
    path: str
    """The variable PATH of the container."""
    cwd: str
    uid: int
    gids: tuple[int, ...]
    rootless: bool = False
    """Whether the container's root is this user, and no other user of the host exists in it."""
    mounts: Mapping[str, MountedSource] = {}
    """What hides files of the image, by destination."""


def check_command(
    execution: Execution, rootfs: Rootfs, machine: str, images: Mapping[str, Rootfs] | None = None
) -> None:
    """Check that a machine, named as by `uname -m`, can execute the command, as far as the files decide that.

    `images` are those of `MountedSource.image`.

    Raises:
        CommandNotFoundError: The program or its interpreter does not exist.
        NotExecutableError: The program is a directory, or not executable, or for another machine.
        InvalidImageError: A span fails its verification.
    """
    files = ContainerFiles(rootfs, execution.mounts, images or {})
    try:
        if "/" in execution.command:
            path = os.path.join(execution.cwd, execution.command)
            program = _executable(path, execution, files)
        else:
            path, program = _search(execution, files)
        _check_format(program, path, execution, files, machine)
    except UndecidedError:
        return


def _search(execution: Execution, files: ContainerFiles) -> tuple[str, File]:
    """Return the path and file of a command without a slash, along PATH."""
    denied: NotExecutableError | None = None
    for directory in dict.fromkeys(execution.path.split(":")):
        path = os.path.join(execution.cwd, directory, execution.command)
        try:
            return path, _executable(path, execution, files)
        except CommandNotFoundError:
            continue
        except NotExecutableError as error:
            if not isinstance(error.__cause__, NotADirectoryError):
                denied = denied or error
    if denied is not None:
        raise denied
    raise CommandNotFoundError(
        f"command {shown(execution.command)} is in no directory of the container's PATH ({shown(execution.path)}): "
        "name another, or its path"
    )


def _executable(path: str, execution: Execution, files: ContainerFiles) -> File:
    """Return the file at `path` that execve(2) would load."""
    try:
        found = files.lookup(path.encode(), lambda each: _permits(each.attributes(), execution))
    except FileNotFoundError:
        raise CommandNotFoundError(f"command {shown(path)} does not exist in the container") from None
    except OSError as error:
        raise _refusal(path, _WHY.get(error.errno or 0) or str(error.strerror)) from error
    attributes = found.attributes()
    if stat.S_ISDIR(attributes.mode):
        raise _refusal(path, "it is a directory")
    if not stat.S_ISREG(attributes.mode):
        raise _refusal(path, "it is not a regular file")
    if not _permits(attributes, execution):
        raise _refusal(path, f"its mode is {stat.S_IMODE(attributes.mode):04o}")
    if not found.executable:
        raise _refusal(path, "it is on a mount with the option noexec")
    return found


def _refusal(path: str, why: str) -> NotExecutableError:
    return NotExecutableError(f"command {shown(path)} cannot be executed: {why}")


def _permits(file: FileStatus, execution: Execution) -> bool:
    """Whether the user may execute a file, or search a directory; yes if other things than its mode decide."""
    uid, gids = execution.uid, execution.gids
    if execution.rootless and file.of_host:
        uid, gids = os.geteuid(), (os.getegid(), *os.getgroups())
    if execution.uid == 0 and (uid in {0, file.uid}):
        return bool(file.mode & 0o111) or stat.S_ISDIR(file.mode)
    if file.has_acl:
        return True
    if file.uid == uid:
        return bool(file.mode & 0o100)
    return bool(file.mode & (0o010 if file.gid in gids else 0o001))


def _check_format(program: File, path: str, execution: Execution, files: ContainerFiles, machine: str) -> None:
    """Check the format of a program, and of the interpreters that it names."""
    for _ in range(_INTERPRETERS + 1):
        head = program.head(_HEAD)
        if not can_execute(head, machine):
            what = "a program for another machine" if head.startswith(_ELF) else "neither a program nor a script"
            raise _refusal(path, f"it is {what}")
        interpreter = _interpreter_of(head)
        if not interpreter:
            return
        inner = os.path.join(execution.cwd, os.fsdecode(interpreter))
        try:
            program = _executable_interpreter(inner, execution, files)
        except CommandNotFoundError:
            raise CommandNotFoundError(
                f"command {shown(path)} cannot be executed: its interpreter {printable(interpreter)} does not exist in "
                "the container"
            ) from None
        if head.startswith(_ELF):
            return


def _executable_interpreter(path: str, execution: Execution, files: ContainerFiles) -> File:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UndecidedError from None
    return _executable(path, execution, files)


def _interpreter_of(head: bytes) -> bytes:
    """Return the interpreter that a program names, or an empty string."""
    if head.startswith(_SCRIPT):
        words = head[len(_SCRIPT) : _LINE_MAX].split(b"\n", 1)[0].split(maxsplit=1)
        return words[0] if words else b""
    return _elf_interpreter(head) if head.startswith(_ELF) else b""


def _elf_interpreter(head: bytes) -> bytes:
    """Return the interpreter in an ELF program header (elf(5)); empty if it is not in the first bytes."""
    wide, order = head[4:5] == b"\x02", "<" if head[5:6] == b"\x01" else ">"
    try:
        (table,) = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)
        size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
        for number in range(min(count, _PROGRAM_HEADERS)):
            start = table + number * size
            if struct.unpack_from(order + "I", head, start)[0] != _PT_INTERP:
                continue
            offset, length = struct.unpack_from(order + ("Q" if wide else "I"), head, start + (8 if wide else 4)) + (
                struct.unpack_from(order + ("Q" if wide else "I"), head, start + (32 if wide else 16))
            )
            return head[offset : offset + length].rstrip(b"\0") if offset + length <= len(head) else b""
    except (struct.error, OverflowError):
        pass
    return b""
