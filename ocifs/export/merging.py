"""Write a rootfs into an existing directory, like `cp -r`: what both have is replaced, everything else stays.

All files are first written to a staging directory inside the target, closed to other users. Only if that succeeds, and
no directory is in the way of a file, renames move them to their places. So an image that cannot be read, or a full
disk, changes nothing, and other processes see each file old or new. All names are reached by descriptors; a symlink in
the target is replaced like a file, and never followed.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from functools import partial

from ocifs.descriptor import opened
from ocifs.erofs.format import DIRECTORY
from ocifs.errors import OcifsError, printable, printable_path
from ocifs.export.attributes import Attributes
from ocifs.export.data import Progress, directory_at
from ocifs.export.directories import OPEN_DIRECTORY, Cursor, DirectoryTable
from ocifs.export.directory import write_below
from ocifs.export.losses import Losses
from ocifs.export.target import staging_directory
from ocifs.image.rootfs import Rootfs

_BY_NAME = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Moved = tuple[bytes, int]
"""Path below the target, and nid, of a file or of a directory with everything in it."""


def merge_directory(
    rootfs: Rootfs,
    path: str,
    target: str,
    *,
    plain: bool = False,
    keep: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Moved], Losses]:
    """Write the content of the directory at `path` of the image into the existing directory `target`.

    Args:
        rootfs: The source.
        path: In the image.
        target: On the host.
        plain: Set only permissions, reduced by the umask, and leave those of existing directories alone.
        keep: Keep existing files.
        progress: Called with (bytes written, total bytes).

    Returns:
        What was moved to its place, and what could not be reproduced.

    Raises:
        NotFoundError: `path` is not a directory of the image.
        OcifsError: `target` cannot be written, or has a directory in place of a file or the reverse.
        InvalidImageError: A span does not verify.
        LimitError: The files exceed a limit of the rootfs.
    """
    nid = directory_at(rootfs, path)
    with staging_directory(target) as (into, staged):
        losses, attributes = write_below(rootfs, nid, staged, plain=plain, progress=progress)
        os.fchmod(staged, 0o700)
        for _ in _Merge(rootfs, nid, staged, into, target, keep=keep).places():
            pass  # finds what is in the way before anything moves
        merge = _Merge(rootfs, nid, staged, into, target, keep=keep)
        moved = list(merge.move())
        if isinstance(attributes, Attributes):
            merge.finish(attributes)
    return moved, losses


class _Merge:
    """A walk over the directories that the image and the target share."""

    def __init__(self, rootfs: Rootfs, nid: int, staged: int, into: int, target: str, *, keep: bool) -> None:
        self.rootfs = rootfs
        self.target = target
        self.keep = keep
        self.directories = DirectoryTable(nid)
        self.staged = staged
        self.into = into

    def move(self) -> Iterator[Moved]:
        """Move everything to its place, and yield it."""
        for number, name, nid, source, target in self.places():
            _rename(name, source, target)
            yield self.directories.path(number, name)[1:], nid

    def places(self) -> Iterator[tuple[int, bytes, int, int, int]]:
        """Yield what can move: directory number, name, nid, and the open directories in staging and target."""
        sources, targets = Cursor(self.directories, self.staged), Cursor(self.directories, self.into)
        with closing(sources), closing(targets):
            pending = [0]
            while pending:
                number = pending.pop()
                for name, nid, file_type in self.rootfs.tree.entries(self.directories.nids[number]):
                    source, target = sources.at(number), targets.at(number)
                    if _mode(name, source) is None:  # it could not be created
                        continue
                    present = _mode(name, target)
                    if present is not None and stat.S_ISDIR(present) and file_type == DIRECTORY:
                        _open_up(name, source)
                        pending.append(self.directories.add(nid, name, number))
                    elif present is None or self._replaceable(number, name, present, file_type):
                        yield number, name, nid, source, target

    def _replaceable(self, number: int, name: bytes, present: int, file_type: int) -> bool:
        if stat.S_ISDIR(present) or file_type == DIRECTORY:
            there = f"{printable_path(self.target)}{printable(self.directories.path(number, name))}"
            one, other = ("a file", "a directory") if file_type == DIRECTORY else ("a directory", "a file")
            raise OcifsError(f"cannot replace {there}: it is {one}, and {other} in the image: remove it")
        return not self.keep

    def finish(self, attributes: Attributes) -> None:
        """Set the attributes of the directories that existed."""
        with closing(Cursor(self.directories, self.into)) as here:
            for number in reversed(range(len(self.directories))):
                nid = self.directories.nids[number]
                name = self.directories.names[number] or b"."
                with opened(name, OPEN_DIRECTORY, dir_fd=here.at(self.directories.parents[number])) as fd:
                    xattrs = self.rootfs.tree.xattrs(nid)
                    attributes.give(fd, self.rootfs.tree.inode(nid), xattrs, partial(self.directories.path, number))


def _mode(name: bytes, directory: int) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _open_up(name: bytes, parent: int) -> None:
    """Let this process enter a directory in the staging directory, whatever mode it has in the image."""
    with opened(name, _BY_NAME, dir_fd=parent) as fd:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)


def _rename(name: bytes, source: int, target: int) -> None:
    try:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    except PermissionError:
        # Only root can move a directory that is closed to its owner (rename(2)).
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IWUSR:
            raise
        with opened(name, _BY_NAME, dir_fd=source) as fd:
            mode = stat.S_IMODE(status.st_mode)
            os.chmod(f"/proc/self/fd/{fd}", mode | stat.S_IWUSR)
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            os.chmod(f"/proc/self/fd/{fd}", mode)
