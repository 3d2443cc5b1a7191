"""Check, before a container starts, that its command can be executed: the program, its interpreter, its machine.

This follows execve(2) and the search of execvp(3), in the tree image. It decides only what the image alone decides: a
path at or below a mount is left to the kernel. Exit statuses are those of env(1): 127 if a file does not exist, 126 for
every other reason.
"""

import os
import stat
import struct
from collections.abc import Iterable, Sequence

import msgspec

from ocifs.bundle.machine import can_execute
from ocifs.bundle.mount_destinations import names_of
from ocifs.erofs.reader import Inode
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
_DIRECTORIES = 32
"""Directories of a PATH to search; a longer one is left to the kernel, since each may take many lookups."""
_ACL = b"system.posix_acl_access"


class CommandNotFoundError(NotFoundError):
    """The command, or its interpreter, does not exist in the container."""

    exit_code = 127


class NotExecutableError(UnsupportedError):
    """The command exists, but cannot be executed."""

    exit_code = 126


class _NoDirectoryError(NotExecutableError):
    """A component of the path is a file: a search along PATH passes over it."""


class _HiddenError(Exception):
    """The image does not decide: the path leads to a mount, or PATH is too long."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """A command, and what the search for its program depends on."""

    command: str
    path: str
    """The variable PATH of the container."""
    cwd: str
    uid: int
    gids: tuple[int, ...]
    mounts: tuple[str, ...]
    """Mount destinations that hide what the image has there."""


def check_command(execution: Execution, rootfs: Rootfs, machine: str) -> None:
    """Check that a machine, named as by `uname -m`, can execute the command, as far as the image decides that.

    Raises:
        CommandNotFoundError: The program or its interpreter does not exist.
        NotExecutableError: The program is a directory, or not executable, or for another machine.
        InvalidImageError: A span fails its verification.
    """
    try:
        if "/" in execution.command:
            path = os.path.join(execution.cwd, execution.command)
            nid = _executable(path, execution, rootfs)
        else:
            path, nid = _search(execution, rootfs)
        _check_format(nid, path, execution, rootfs, machine)
    except _HiddenError:
        return


def _search(execution: Execution, rootfs: Rootfs) -> tuple[str, int]:
    """Return the (path, nid) of a command without a slash, along PATH."""
    directories = dict.fromkeys(execution.path.split(":"))
    if len(directories) > _DIRECTORIES:
        raise _HiddenError
    denied: NotExecutableError | None = None
    for directory in directories:
        path = os.path.join(execution.cwd, directory, execution.command)
        try:
            return path, _executable(path, execution, rootfs)
        except (CommandNotFoundError, _NoDirectoryError):
            continue
        except NotExecutableError as error:
            denied = denied or error
    if denied is not None:
        raise denied
    raise CommandNotFoundError(
        f"command {shown(execution.command)} is in no directory of the container's PATH ({shown(execution.path)}): "
        "name another, or its path"
    )


def _executable(path: str, execution: Execution, rootfs: Rootfs) -> int:
    """Return the nid of the file at `path` that execve(2) would load."""
    encoded = path.encode()
    _check_mounts(names_of(path), execution.mounts)
    try:
        names = rootfs.canonical(encoded + b"/.")
    except NotFoundError as error:  # a loop of symlinks
        raise _refusal(path, str(error)) from None
    _check_mounts(names, execution.mounts)
    nid = rootfs.root
    for name in names:
        inode = rootfs.tree.inode(nid)
        if not stat.S_ISDIR(inode.mode):
            raise _NoDirectoryError(f"command {shown(path)} cannot be executed: a file of its path is not a directory")
        if not _permits(inode, execution, rootfs):
            raise _refusal(path, "the user may not enter a directory of its path")
        below = rootfs.tree.lookup(nid, name)
        if below is None:
            raise CommandNotFoundError(f"command {shown(path)} does not exist in the image")
        nid = below
    inode = rootfs.tree.inode(nid)
    if stat.S_ISDIR(inode.mode):
        raise _refusal(path, "it is a directory")
    if not stat.S_ISREG(inode.mode):
        raise _refusal(path, "it is not a regular file")
    if not _permits(inode, execution, rootfs):
        raise _refusal(path, f"its mode is {stat.S_IMODE(inode.mode):04o}")
    return nid


def _refusal(path: str, why: str) -> NotExecutableError:
    return NotExecutableError(f"command {shown(path)} cannot be executed: {why}")


def _permits(inode: Inode, execution: Execution, rootfs: Rootfs) -> bool:
    """Whether the user may execute a file, or search a directory; yes if an access control list decides."""
    if execution.uid == 0:
        return bool(inode.mode & 0o111) or stat.S_ISDIR(inode.mode)
    if inode.has_xattrs and _ACL in rootfs.tree.xattrs(inode.nid):
        return True
    if inode.uid == execution.uid:
        return bool(inode.mode & 0o100)
    return bool(inode.mode & (0o010 if inode.gid in execution.gids else 0o001))


def _check_format(nid: int, path: str, execution: Execution, rootfs: Rootfs, machine: str) -> None:
    """Check the format of a program, and of the interpreters that it names."""
    for _ in range(_INTERPRETERS + 1):
        head = rootfs.read(nid, _HEAD, 0)
        if not can_execute(head, machine):
            what = "a program for another machine" if head.startswith(_ELF) else "neither a program nor a script"
            raise _refusal(path, f"it is {what}")
        interpreter = _interpreter_of(head)
        if not interpreter:
            return
        inner = os.path.join(execution.cwd, os.fsdecode(interpreter))
        try:
            nid = _executable_interpreter(inner, execution, rootfs)
        except CommandNotFoundError:
            raise CommandNotFoundError(
                f"command {shown(path)} cannot be executed: its interpreter {printable(interpreter)} does not exist in "
                "the image"
            ) from None
        if head.startswith(_ELF):
            return


def _executable_interpreter(path: str, execution: Execution, rootfs: Rootfs) -> int:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise _HiddenError from None
    return _executable(path, execution, rootfs)


def _check_mounts(names: Sequence[bytes], mounts: Iterable[str]) -> None:
    for mount in mounts:
        above = names_of(mount)
        if list(names[: len(above)]) == above:
            raise _HiddenError


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
