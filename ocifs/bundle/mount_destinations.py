"""Check the directories that a runtime mounts on or enters, before any runtime sees the image.

No component of a mount destination may be a symlink. Runtimes resolve some of these paths outside the container's
root: with `/dev` as a symlink, runc 1.1.5 makes device files in the *host's* directory of that name. The container sees
the tree image, so a check holds until a container has written to its rootfs; `check_remounted` checks the directory of
an existing bundle. This module knows nothing of volumes and mounts nothing.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ocifs.bundle.runtime_spec import Spec
from ocifs.errors import MountError, UnsupportedError, printable, printable_path
from ocifs.image.rootfs import Rootfs
from ocifs.spec.document import shown

_ENTERED = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def names_of(path: str) -> list[bytes]:
    """Return the components of a normalised absolute path."""
    return [name for name in path.encode().split(b"/") if name]


def check_destinations(spec: Spec, rootfs: Rootfs) -> Spec:
    """Check that a runtime can safely use the spec on `rootfs`; return it with its working directory resolved.

    Raises:
        UnsupportedError: A component of a mount destination is a symlink or a file; the working directory leads into
            /proc or /dev, or is not UTF-8; or a directory is missing from a read-only rootfs.
        NotFoundError: The working directory is a loop of symlinks.
    """
    above: list[str] = []
    for mount in spec.mounts:
        _check_directory(rootfs, mount.destination, names_of(mount.destination), spec, above)
        above.append(mount.destination)
    cwd = spec.process.cwd
    names = rootfs.canonical(f"{cwd}/.".encode())
    if _leads_out(names):
        raise UnsupportedError(
            f"working directory {shown(cwd)} leads to {printable(_joined(names))}, through which a process can leave "
            "the container: choose another with --cwd"
        )
    resolved = _text(names, cwd)
    _check_directory(rootfs, resolved, names, spec, above)
    return replace(spec, process=replace(spec.process, cwd=resolved))


def check_remounted(bundle: Path) -> None:
    """Check the rootfs of a bundle, which a container may have written to, against its config.json.

    Raises:
        MountError: A component of a mount destination or of the working directory is a symlink, or one other than the
            last is a file.
    """
    path = bundle / "config.json"
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_Config)
    except (OSError, msgspec.MsgspecError):
        raise MountError(f"{printable_path(str(path))} cannot be read: make a new bundle") from None
    for destination in (*(mount.destination for mount in config.mounts), config.process.cwd):
        walk_down(bundle / "rootfs", names_of(destination), make=False)


def walk_down(top: Path, names: Sequence[bytes], *, make: bool) -> None:
    """Walk down `names` from the directory `top` and stop at a missing one; with `make`, create it with mode 0755.

    Each name is looked up in an open directory, and no symlink is followed. Without `make`, the last one may be a file:
    `config.json` can mount on files.

    Raises:
        MountError: A component is not a directory, or the system refuses.
    """
    path = b""
    directory = os.open(top, _ENTERED)
    try:
        for number, name in enumerate(names, 1):
            path += b"/" + name
            try:
                below = _open_or_make(directory, name, make=make)
            except FileNotFoundError:
                return
            except NotADirectoryError:
                if make or number < len(names) or stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode):
                    raise
                return
            os.close(directory)
            directory = below
    except (NotADirectoryError, FileExistsError):
        raise MountError(
            f"{printable(path)} in {printable_path(str(top))} is not a directory, so nothing can safely be mounted "
            "there: remove it, or make a new bundle"
        ) from None
    except OSError as error:
        raise MountError(f"{printable(path)} in {printable_path(str(top))}: {error.strerror}") from None
    finally:
        os.close(directory)


def directories_of(rootfs: Rootfs, names: Sequence[bytes]) -> tuple[int, str | None]:
    """Return how many of the nested `names` are directories in the image, and what obstructs the next one, if any."""
    nid = rootfs.root
    for count, name in enumerate(names):
        below = rootfs.tree.lookup(nid, name)
        if below is None:
            return count, None
        mode = rootfs.tree.inode(below).mode
        if not stat.S_ISDIR(mode):
            return count, "a symlink" if stat.S_ISLNK(mode) else "not a directory"
        nid = below
    return len(names), None


class _Mount(msgspec.Struct):
    destination: str


class _Process(msgspec.Struct):
    cwd: str


class _Config(msgspec.Struct):
    """The members of a config.json that `check_remounted` uses."""

    process: _Process
    mounts: list[_Mount] = []


def _check_directory(rootfs: Rootfs, path: str, names: list[bytes], spec: Spec, above: Iterable[str]) -> None:
    count, obstacle = directories_of(rootfs, names)
    if obstacle is not None:
        raise UnsupportedError(
            f"{printable(_joined(names[: count + 1]))} is {obstacle} in the image: a runtime that uses {shown(path)} "
            "could write outside the container: build the image with a directory there"
        )
    if count == len(names) or not spec.root.readonly or any(path.startswith(f"{each}/") for each in above):
        return
    raise UnsupportedError(
        f"{shown(path)} is not a directory in the image, and cannot be made in a read-only rootfs: "
        "use --rootfs overlay or tmpfs"
    )


def _text(names: Iterable[bytes], cwd: str) -> str:
    try:
        return _joined(names).decode()
    except UnicodeDecodeError:  # keeping `cwd` is not safe: its symlinks may pass through /proc
        raise UnsupportedError(
            f"working directory {shown(cwd)} is {printable(_joined(names))}, which is not UTF-8, so config.json "
            "cannot hold it: choose another with --cwd"
        ) from None


def _leads_out(names: Sequence[bytes]) -> bool:
    """Whether a path may pass through a link to an open file of the runtime, e.g. /proc/self/fd/7 (CVE-2024-21626)."""
    return len(names) > 1 and (names[0] == b"proc" or (names[0] == b"dev" and names[1] != b"shm"))


def _joined(names: Iterable[bytes]) -> bytes:
    return b"/" + b"/".join(names)


def _open_or_make(directory: int, name: bytes, *, make: bool) -> int:
    try:
        return os.open(name, _ENTERED, dir_fd=directory)
    except FileNotFoundError:
        if not make:
            raise
    os.mkdir(name, 0o700, dir_fd=directory)
    made = os.open(name, _ENTERED, dir_fd=directory)
    os.chmod(f"/proc/self/fd/{made}", 0o755)  # noqa: S103 - like a directory of the image, whatever the umask
    return made
