"""Check the directories that a runtime mounts on or enters, before any runtime sees the image.

No component of a mount destination may be a symlink. Runtimes resolve some of these paths outside the container's
root: with `/dev` as a symlink, runc 1.1.5 makes device files in the *host's* directory of that name. The container sees
the tree image, so a check holds until a container has written to its rootfs; `check_remounted` checks the directory of
an existing bundle. This module knows nothing of volumes and mounts nothing.
"""

import os
import stat
from collections.abc import Collection, Iterable, Sequence
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


def resolve_destination(path: str, rootfs: Rootfs) -> str:
    """Return a mount destination with the image's symlinks resolved; names that do not exist stay as they are.

    Raises:
        UnsupportedError: A symlink leads into /proc, /dev or /sys, or the result is not UTF-8.
        NotFoundError: There is a loop of symlinks.
    """
    names = rootfs.canonical(f"{path}/.".encode())
    if names == names_of(path):
        return path
    if not names or names[0] in {b"proc", b"dev", b"sys"}:
        raise UnsupportedError(
            f"mount destination {shown(path)} leads to {printable(_joined(names))} by a symlink of the image: "
            "choose another destination"
        )
    return _text(names, f"mount destination {shown(path)}", "choose another destination")


def check_destinations(spec: Spec, rootfs: Rootfs, files: Collection[str] = ()) -> Spec:
    """Check that a runtime can safely use the spec on `rootfs`; return it with its working directory resolved.

    `files` are the destinations of mounts of which the source is not a directory.

    Raises:
        UnsupportedError: A component of a mount destination is a symlink or a file; the working directory leads into
            /proc or /dev, or is not UTF-8; or a directory is missing from a read-only rootfs.
        NotFoundError: The working directory is a loop of symlinks.
    """
    above: list[str] = []
    for mount in spec.mounts:
        names = names_of(mount.destination)
        if mount.destination in files:
            _check_file(rootfs, mount.destination, names, spec, above)
        else:
            _check_directory(rootfs, mount.destination, names, spec, above)
        above.append(mount.destination)
    cwd = spec.process.cwd
    names = rootfs.canonical(f"{cwd}/.".encode())
    if _leads_out(names):
        raise UnsupportedError(
            f"working directory {shown(cwd)} leads to {printable(_joined(names))}, through which a process can leave "
            "the container: choose another with --workdir"
        )
    resolved = _text(names, f"working directory {shown(cwd)}", "choose another with --workdir")
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
    if count < len(names):
        _check_can_be_made(path, "directory", spec, above)


def _check_file(rootfs: Rootfs, path: str, names: list[bytes], spec: Spec, above: Iterable[str]) -> None:
    """Check a destination for a mount of a file."""
    _check_directory(rootfs, path, names[:-1], spec, above)
    count, obstacle = directories_of(rootfs, names)
    if count == len(names):
        raise UnsupportedError(f"{shown(path)} is a directory in the image, so a file cannot be mounted there")
    if obstacle == "a symlink":
        raise UnsupportedError(
            f"{shown(path)} is a symlink in the image: a runtime that mounts there could write outside the container: "
            "choose another destination"
        )
    if obstacle is None:
        _check_can_be_made(path, "file", spec, above)


def _check_can_be_made(path: str, what: str, spec: Spec, above: Iterable[str]) -> None:
    """Check that a runtime can make a missing destination: in a writable rootfs, or below another mount."""
    if spec.root.readonly and not any(path.startswith(f"{each}/") for each in above):
        raise UnsupportedError(
            f"{shown(path)} is not a {what} in the image, and cannot be made in a read-only rootfs: "
            "use --rootfs overlay or tmpfs instead"
        )


def _text(names: Iterable[bytes], what: str, advice: str) -> str:
    try:
        return _joined(names).decode()
    except UnicodeDecodeError:  # keeping the path is not safe: its symlinks may pass through /proc
        raise UnsupportedError(
            f"{what} is {printable(_joined(names))}, which is not UTF-8, so config.json cannot hold it: {advice}"
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
