"""System calls for mounts that Python lacks: fsopen(2) to move_mount(2), umount2(2), statx(2) and setns(2).

A new file system is an open file here, and can be used before it is attached to a path, or without ever being attached.
Other threads run during each call. This module does not know what is mounted.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Mapping

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_FSMOUNT_CLOEXEC = 1
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_BENEATH = 4, 0x200
_MOUNT_ATTR_IDMAP = 0x100000
_MOUNT_ATTR = struct.Struct("=QQQQ")
"""struct mount_attr: flags to set and to clear, propagation, descriptor of a user namespace."""
_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW, _AT_NO_AUTOMOUNT, _AT_STATX_DONT_SYNC = 0x100, 0x800, 0x4000
_STATX_MNT_ID_UNIQUE = 0x4000
_STATX_SIZE, _STATX_MNT_ID_AT = 256, 0x90
"""Size of `struct statx`, and offset of its member `stx_mnt_id`."""
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000
_CLONE_NEWUSER = 0x10000000
_MESSAGE_MAX = 8192

_libc = ctypes.CDLL(None, use_errno=True)


def check_filesystem(fstype: str) -> None:
    """Check that the kernel supports a type of file system and lets this process mount it. Raises OSError."""
    os.close(_call("fsopen", fstype.encode(), _FSOPEN_CLOEXEC))


def new_mount(fstype: str, options: Mapping[str, str | None], attributes: int) -> int:
    """Return the root of a new file system, not attached to any path, as an O_PATH file descriptor.

    `options` are those of fsconfig(2), including `source`; the value None makes a flag. `attributes` are MOUNT_ATTR_*
    of fsmount(2). Closing the descriptor unmounts the file system unless it has been attached.

    Raises:
        OSError: The kernel refuses; `strerror` has its reason.
    """
    context = _call("fsopen", fstype.encode(), _FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            if value is None:
                _call("fsconfig", context, _FSCONFIG_SET_FLAG, key.encode(), None, 0)
            else:
                _call("fsconfig", context, _FSCONFIG_SET_STRING, key.encode(), value.encode(), 0)
        _call("fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call("fsmount", context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        if reason := _last_message(context):
            error.strerror = f"{error.strerror} ({reason})"
        raise
    finally:
        os.close(context)


def attach(mount: int, path: str) -> None:
    """Attach a mount of `new_mount` to the directory `path`. Raises OSError."""
    _call("move_mount", mount, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)


def attach_beneath(mount: int, path: str) -> None:
    """Attach a mount of `new_mount` below the topmost mount on `path`, which must exist.

    Raises:
        OSError: The kernel is older than 6.5, or refuses.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_BENEATH
    _call("move_mount", mount, b"", _AT_FDCWD, os.fsencode(path), flags)


def map_ids(mount: int, namespace: int) -> None:
    """Let a mount of `new_mount`, not yet attached, map ids as the user namespace of an open file does.

    Raises:
        OSError: The kernel is older than 5.19, or the C library than 2.36, or the file system cannot do that.
    """
    attributes = _MOUNT_ATTR.pack(_MOUNT_ATTR_IDMAP, 0, 0, namespace)
    _call("mount_setattr", mount, b"", _AT_EMPTY_PATH, attributes, len(attributes))


def umount(path: str, *, lazy: bool) -> None:
    """Unmount the topmost mount on `path`, without following a symlink there. Raises OSError."""
    _call("umount2", os.fsencode(path), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0))


def mount_id(path: str) -> int | None:
    """Return the unique ID of the mount that contains `path`; None if the kernel has none, as before Linux 6.8.

    This makes no request to the file system, so it neither hangs nor fails on a dead mount.
    """
    found = ctypes.create_string_buffer(_STATX_SIZE)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | _AT_STATX_DONT_SYNC
    try:
        _call("statx", _AT_FDCWD, os.fsencode(path), flags, _STATX_MNT_ID_UNIQUE, found)
    except OSError:
        return None
    known, number = struct.unpack_from("=I", found)[0], struct.unpack_from("=Q", found, _STATX_MNT_ID_AT)[0]
    return int(number) if known & _STATX_MNT_ID_UNIQUE else None


def enter_mount_namespace(fd: int) -> None:
    """Move this process to the mount namespace of an open file (setns(2)).

    Raises:
        OSError: It has no permission, or more than one thread.
    """
    _call("setns", fd, _CLONE_NEWNS)


def unshare_directory() -> None:
    """Unshare this thread's working directory (unshare(2), CLONE_FS). Raises OSError."""
    _call("unshare", _CLONE_FS)


def unshare_users() -> None:
    """Move this process to a new user namespace. Raises OSError."""
    _call("unshare", _CLONE_NEWUSER)


def _call(name: str, *arguments: "int | bytes | ctypes.Array[ctypes.c_char] | None") -> int:
    try:
        function = getattr(_libc, name)
    except AttributeError:
        raise OSError(0, f"the C library has no {name}") from None
    result: int = function(*arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _last_message(context: int) -> str:
    """Return the kernel's reason for refusing a new file system, such as `e erofs: ...` (fsopen(2))."""
    message = ""
    os.set_blocking(context, False)
    with contextlib.suppress(OSError):
        while line := os.read(context, _MESSAGE_MAX):
            message = line.decode(errors="replace").strip().partition(" ")[2]
    return message
