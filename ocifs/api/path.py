"""Paths inside an image, used like `pathlib.Path`.

Names are text; bytes that are not UTF-8 become surrogates (`os.fsdecode`), and `bytes(path)` is exact. Symlinks are
resolved inside the image. A path is not `os.PathLike`, because `open()` would then open a file of the host: so nothing
from an image names a file outside of it.
"""

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import total_ordering
from pathlib import PurePath, PurePosixPath
from typing import Literal, Self, overload

from ocifs.api.glob import glob
from ocifs.erofs.format import DIRECTORY, SYMLINK
from ocifs.erofs.reader import Inode
from ocifs.image.lookup import MAX_SYMLINKS, PathError
from ocifs.image.rootfs import BUFFER_SIZE, Rootfs

Segment = str | bytes | PurePath
"""What a path can be joined with."""

_BLOCK = 4096
_BINARY = {"rb", "br"}
_MODES = {"r", "rt", "tr"} | _BINARY


def _text(segment: "Segment | ImagePath") -> str:
    if isinstance(segment, ImagePath):
        return str(segment)
    return os.fsdecode(segment)


@total_ordering
class ImagePath:
    """An absolute path inside an image; the file need not exist.

    Its attributes and methods are those of `pathlib.Path` that only read, with the same errors: FileNotFoundError,
    NotADirectoryError, IsADirectoryError, and OSError for a loop of symlinks. They raise ValueError after the image is
    closed, and `InvalidImageError` if the bytes of a file no longer match the index.
    """

    __slots__ = ("_pure", "_rootfs")

    def __init__(self, rootfs: Rootfs, *segments: "Segment | ImagePath") -> None:
        """Join `segments` to the root directory of a tree, such as `image.rootfs` or `image.as_of(0)`."""
        self._rootfs = rootfs
        match segments:
            case [PurePosixPath(root="/") as only]:
                self._pure = only
                return
        joined = PurePosixPath("/", *map(_text, segments))
        self._pure = PurePosixPath("/", *joined.parts[1:])  # POSIX gives two slashes at the beginning another meaning

    def _child(self, name: bytes) -> Self:
        return type(self)(self._rootfs, self._pure / os.fsdecode(name))

    def _with(self, *segments: "Segment | ImagePath") -> Self:
        return type(self)(self._rootfs, *segments)

    def __str__(self) -> str:
        return str(self._pure)

    def __bytes__(self) -> bytes:
        return os.fsencode(str(self._pure))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImagePath):
            return NotImplemented
        return self._rootfs is other._rootfs and self._pure == other._pure

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, ImagePath) or self._rootfs is not other._rootfs:
            return NotImplemented
        return self._pure < other._pure

    def __hash__(self) -> int:
        return hash((id(self._rootfs), self._pure))

    def __truediv__(self, segment: "Segment | ImagePath") -> Self:
        """Join; an absolute `segment` starts at the root of the image."""
        return self._with(self._pure, segment)

    # Names

    @property
    def name(self) -> str:
        """The last name; empty for the root."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The last name without its suffix."""
        return self._pure.stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name, with its dot; empty if it has none."""
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        """All suffixes of the name, each with its dot."""
        return self._pure.suffixes

    @property
    def parts(self) -> tuple[str, ...]:
        """The names, from `/`."""
        return self._pure.parts

    @property
    def parent(self) -> Self:
        """The path without its last name; the root is its own parent."""
        return self._with(self._pure.parent)

    @property
    def parents(self) -> Sequence[Self]:
        """The parent, its parent, and so on up to the root."""
        return [self._with(each) for each in self._pure.parents]

    def as_posix(self) -> str:
        """Return the path as text, as `str` does."""
        return str(self)

    def is_absolute(self) -> bool:
        """Return True: paths in an image are absolute."""
        return True

    def joinpath(self, *segments: "Segment | ImagePath") -> Self:
        """Join several segments."""
        return self._with(self._pure, *segments)

    def with_name(self, name: str) -> Self:
        """Return the path with another last name. Raises ValueError as pathlib does."""
        return self._with(self._pure.with_name(name))

    def with_stem(self, stem: str) -> Self:
        """Return the path with another stem. Raises ValueError as pathlib does."""
        return self._with(self._pure.with_stem(stem))

    def with_suffix(self, suffix: str) -> Self:
        """Return the path with another suffix. Raises ValueError as pathlib does."""
        return self._with(self._pure.with_suffix(suffix))

    def relative_to(self, other: "Segment | ImagePath") -> PurePosixPath:
        """Return the path from `other` to this one. Raises ValueError if this path is not below `other`."""
        return self._pure.relative_to(_text(other))

    def is_relative_to(self, other: "Segment | ImagePath") -> bool:
        """Whether this path is `other`, or below it, by name only."""
        return self._pure.is_relative_to(_text(other))

    def match(self, pattern: str) -> bool:
        """Whether the path matches a pattern, as in `pathlib.PurePath.match`."""
        return self._pure.match(pattern)

    # Attributes

    def inode(self, *, follow_symlinks: bool = True) -> Inode:
        """Return the attributes as the tree image has them, with the layer that set them. Raises OSError."""
        if self._rootfs.closed:
            raise ValueError(f"{self!r}: the image is closed")
        try:
            return self._rootfs.tree.inode(self._rootfs.lookup(bytes(self), follow=follow_symlinks))
        except PathError as error:
            raise self._error(error.errno) from None

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the attributes as `os.stat` does. All times are the mtime; `st_dev` is 0."""
        inode = self.inode(follow_symlinks=follow_symlinks)
        seconds = inode.mtime_ns // 1_000_000_000
        required = (inode.mode, inode.nid, 0, inode.nlink, inode.uid, inode.gid, inode.size, seconds, seconds, seconds)
        times: dict[str, object] = {}
        for name in ("st_atime", "st_mtime", "st_ctime"):
            times[name], times[f"{name}_ns"] = inode.mtime_ns / 1e9, inode.mtime_ns
        return os.stat_result(
            required, times | {"st_blksize": _BLOCK, "st_blocks": inode.blocks, "st_rdev": inode.rdev}
        )

    def lstat(self) -> os.stat_result:
        """Return the attributes of a symlink itself."""
        return self.stat(follow_symlinks=False)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether the file exists."""
        return self._mode(follow_symlinks=follow_symlinks) != 0

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self._mode(follow_symlinks=follow_symlinks))

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self._mode(follow_symlinks=follow_symlinks))

    def is_symlink(self) -> bool:
        """Whether it is a symlink."""
        return stat.S_ISLNK(self._mode(follow_symlinks=False))

    def is_fifo(self) -> bool:
        """Whether it is a FIFO."""
        return stat.S_ISFIFO(self._mode())

    def is_socket(self) -> bool:
        """Whether it is a socket."""
        return stat.S_ISSOCK(self._mode())

    def is_block_device(self) -> bool:
        """Whether it is a block device."""
        return stat.S_ISBLK(self._mode())

    def is_char_device(self) -> bool:
        """Whether it is a character device."""
        return stat.S_ISCHR(self._mode())

    def samefile(self, other: "Segment | ImagePath") -> bool:
        """Whether both are the same inode, as hard links are. Raises OSError if either does not exist."""
        return self.inode().nid == self._with(other).inode().nid

    def readlink(self) -> PurePosixPath:
        """Return the target of a symlink as it is stored: `path.parent / path.readlink()` is the target's path.

        Raises OSError, with EINVAL if it is not a symlink.
        """
        inode = self.inode(follow_symlinks=False)
        if not stat.S_ISLNK(inode.mode):
            raise self._error(errno.EINVAL)
        return PurePosixPath(os.fsdecode(self._rootfs.readlink(inode.nid)))

    def resolve(self, *, strict: bool = False) -> Self:
        """Return the path without symlinks and `..`. Raises OSError if it is a loop, or `strict` and does not exist."""
        if strict:
            self.inode()
        path = self
        for _ in range(MAX_SYMLINKS):  # `canonical` resolves all but the last name
            try:
                path = self._with(*map(os.fsdecode, self._rootfs.canonical(bytes(path))))
            except PathError as error:
                raise self._error(error.errno) from None
            if not path.is_symlink():
                return path
            path = path.parent / path.readlink()
        raise self._error(errno.ELOOP)

    def xattrs(self, *, follow_symlinks: bool = True) -> dict[str, bytes]:
        """Return the extended attributes by their full names."""
        found = self._rootfs.tree.xattrs(self.inode(follow_symlinks=follow_symlinks).nid)
        return {os.fsdecode(name): value for name, value in found.items()}

    # Directories

    def iterdir(self) -> Iterator[Self]:
        """Yield the files of a directory, by name. Raises OSError, at once."""
        inode = self.inode()
        if not stat.S_ISDIR(inode.mode):
            raise self._error(errno.ENOTDIR)
        return (self._child(name) for name, *_ in self._rootfs.tree.entries(inode.nid))

    def below(self, *, directories: bool = False) -> Iterator[Self]:
        """Yield this file and everything below it, or only `directories`, depth first and by name.

        Symlinks below it are not followed. Raises OSError.
        """
        tree = self._rootfs.tree
        for path, nid in tree.walk(self.inode().nid):
            if not directories or stat.S_ISDIR(tree.inode(nid).mode):
                yield self._child(path)

    def listing(self, *, follow_symlinks: bool = False) -> tuple[list[str], list[str]]:
        """Return the names of the directories and of the other files in a directory, by name. Raises OSError."""
        inode = self.inode()
        if not stat.S_ISDIR(inode.mode):
            raise self._error(errno.ENOTDIR)
        names: tuple[list[str], list[str]] = ([], [])
        for name, _, file_type in self._rootfs.tree.entries(inode.nid):
            is_link = follow_symlinks and file_type == SYMLINK
            is_directory = self._child(name).is_dir() if is_link else file_type == DIRECTORY
            names[not is_directory].append(os.fsdecode(name))
        return names

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> Iterator[tuple[Self, list[str], list[str]]]:
        """Yield (directory, names of directories, names of other files) of this directory and all below it.

        If `top_down`, removing names from the first list skips these directories. `on_error` gets the error of a
        directory that cannot be listed; without it, such a directory is skipped.
        """
        pending: list[Self | tuple[Self, list[str], list[str]]] = [self]
        while pending:
            path = pending.pop()
            if isinstance(path, tuple):
                yield path
                continue
            try:
                directories, others = path.listing(follow_symlinks=follow_symlinks)
            except OSError as error:
                if on_error is not None:
                    on_error(error)
                continue
            if top_down:
                yield path, directories, others
            else:
                pending.append((path, directories, others))
            pending += [path / name for name in reversed(directories)]

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yield the files below this directory that match `pattern`, by name.

        As in pathlib of Python 3.13: `*`, `?` and `[…]` match within a name, a dot at its beginning included; `**`
        matches any number of directories, without following symlinks, and at the end also all files in them. Raises
        ValueError for an empty pattern, NotImplementedError for an absolute one.
        """
        return glob(self, pattern)

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Yield the files anywhere below this directory that match `pattern`, as `glob("**/" + pattern)` does."""
        if PurePosixPath(pattern).is_absolute():
            raise NotImplementedError("Non-relative patterns are unsupported")
        return self.glob(f"**/{pattern}")

    # Content

    @overload
    def open(
        self,
        mode: Literal["r", "rt", "tr"] = ...,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> io.TextIOWrapper: ...

    @overload
    def open(self, mode: Literal["rb", "br"], buffering: Literal[-1] = ...) -> io.BufferedReader: ...

    @overload
    def open(self, mode: Literal["rb", "br"], buffering: Literal[0]) -> io.RawIOBase: ...

    @overload
    def open(self, mode: str, buffering: int = ...) -> io.IOBase: ...

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> io.IOBase:
        """Open the file for reading, as `pathlib.Path.open` does; it can seek.

        Raises:
            OSError: It is not a regular file, or `mode` writes (EROFS).
            ValueError: There is no such mode.
        """
        if mode not in _MODES:
            if set(mode) & set("wax+"):
                raise self._error(errno.EROFS)
            raise ValueError(f"invalid mode: {mode!r}")
        if mode in _BINARY and (encoding, errors, newline) != (None, None, None):
            raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
        if mode not in _BINARY and not buffering:
            raise ValueError("can't have unbuffered text I/O")
        inode = self.inode()
        if not stat.S_ISREG(inode.mode):
            raise self._error(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
        raw = self._rootfs.open_raw(inode)
        if not buffering:
            return raw
        buffered = io.BufferedReader(raw, buffering if buffering > 1 else BUFFER_SIZE)
        if mode in _BINARY:
            return buffered
        return io.TextIOWrapper(buffered, io.text_encoding(encoding), errors, newline)

    def read_bytes(self) -> bytes:
        """Return the whole content. Raises as `open`."""
        with self.open("rb") as file:
            return file.read()

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """Return the whole content as text. Raises as `open`, and UnicodeDecodeError."""
        with self.open("r", -1, io.text_encoding(encoding), errors, newline) as file:
            return file.read()

    def _error(self, number: int) -> OSError:
        return OSError(number, os.strerror(number), str(self))

    def _mode(self, *, follow_symlinks: bool = True) -> int:
        """Return the mode, or 0 if the file does not exist."""
        try:
            return self.inode(follow_symlinks=follow_symlinks).mode
        except OSError:
            return 0
