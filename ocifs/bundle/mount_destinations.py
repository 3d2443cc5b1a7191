"""The directories that a runtime mounts on or enters, looked up in the image before any runtime sees it.

The rule: no component of a mount destination is a symlink. Runtimes resolve some of these paths outside of the
container's root: with `/dev` as a symlink, runc 1.1.5 makes device files in the *host's* directory of that name. The
tree image is what the container will see, so the answer holds until a container has written to its rootfs; for a kept
bundle `check_kept` asks the directory itself. Nothing here knows volumes or mounts anything.
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


def check_places(spec: Spec, rootfs: Rootfs) -> Spec:
    """Return the spec with its working directory resolved in the image, if a runtime can safely use it on `rootfs`.

    Raises:
        UnsupportedError: A mount destination has a symlink or a file among its components; the working directory leads
            into /proc or /dev, or is not UTF-8; or a directory is missing that cannot be made in a read-only rootfs.
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


def check_kept(bundle: Path) -> None:
    """Check a rootfs that a container may have written to by the config.json beside it.

    Raises:
        MountError: A mount destination or the working directory has a symlink among its components, or a file that is
            not the last one.
    """
    path = bundle / "config.json"
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_Config)
    except (OSError, msgspec.MsgspecError):
        raise MountError(f"{printable_path(str(path))} cannot be read: make a new bundle") from None
    for destination in (*(mount.destination for mount in config.mounts), config.process.cwd):
        walk_down(bundle / "rootfs", names_of(destination), make=False)


def walk_down(top: Path, names: Sequence[bytes], *, make: bool) -> None:
    """Go down from the directory `top` as far as there are directories, and `make` those that are missing (mode 0755).

    Each name is looked up in an open directory, and no symlink is followed. Unless it is to be made, the last may be a
    file, which `config.json` can have a mount on.

    Raises:
        MountError: A component is not a directory, or the system refuses.
    """
    way = b""
    here = os.open(top, _ENTERED)
    try:
        for number, name in enumerate(names, 1):
            way += b"/" + name
            try:
                there = _entered(here, name, make=make)
            except FileNotFoundError:
                return
            except NotADirectoryError:
                if make or number < len(names) or stat.S_ISLNK(os.lstat(name, dir_fd=here).st_mode):
                    raise
                return
            os.close(here)
            here = there
    except (NotADirectoryError, FileExistsError):
        raise MountError(
            f"{printable(way)} in {printable_path(str(top))} is not a directory, so nothing can safely be mounted "
            "there: remove it, or make a new bundle"
        ) from None
    except OSError as error:
        raise MountError(f"{printable(way)} in {printable_path(str(top))}: {error.strerror}") from None
    finally:
        os.close(here)


def directories_of(rootfs: Rootfs, names: Sequence[bytes]) -> tuple[int, str | None]:
    """Return how many of `names`, each in the one before, are directories of the image, and what the next one is."""
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
    """What `check_kept` needs of a config.json."""

    process: _Process
    mounts: list[_Mount] = []


def _check_directory(rootfs: Rootfs, path: str, names: list[bytes], spec: Spec, above: Iterable[str]) -> None:
    count, obstacle = directories_of(rootfs, names)
    if obstacle is not None:
        raise UnsupportedError(
            f"{printable(_joined(names[: count + 1]))} is {obstacle} in the image: a runtime that uses {shown(path)} "
            "could write outside of the container: build the image with a directory there"
        )
    if count == len(names) or not spec.root.readonly or any(path.startswith(f"{each}/") for each in above):
        return
    raise UnsupportedError(
        f"{shown(path)} is no directory of the image, and cannot be made in a read-only rootfs: "
        "use --rootfs overlay or tmpfs"
    )


def _text(names: Iterable[bytes], cwd: str) -> str:
    try:
        return _joined(names).decode()
    except UnicodeDecodeError:  # `cwd` itself is no substitute: its symlinks may pass /proc on their way
        raise UnsupportedError(
            f"working directory {shown(cwd)} is {printable(_joined(names))}, which config.json cannot hold since it is "
            "not UTF-8: choose another with --cwd"
        ) from None


def _leads_out(names: Sequence[bytes]) -> bool:
    """Whether a path may pass a link to an open file of the runtime, as /proc/self/fd/7 does (CVE-2024-21626)."""
    return len(names) > 1 and (names[0] == b"proc" or (names[0] == b"dev" and names[1] != b"shm"))


def _joined(names: Iterable[bytes]) -> bytes:
    return b"/" + b"/".join(names)


def _entered(here: int, name: bytes, *, make: bool) -> int:
    try:
        return os.open(name, _ENTERED, dir_fd=here)
    except FileNotFoundError:
        if not make:
            raise
    os.mkdir(name, 0o700, dir_fd=here)
    made = os.open(name, _ENTERED, dir_fd=here)
    os.chmod(f"/proc/self/fd/{made}", 0o755)  # noqa: S103 - whatever the umask, as a directory of the image
    return made
