"""Files of an image through fsspec, for libraries that open their files with it (pandas, pyarrow, dask, xarray).

    fsspec.open("ocifs://./debian:latest:/etc/os-release")

A URL is `ocifs://IMAGE:/PATH`, with IMAGE as on the command line. fsspec's chained form `ocifs://PATH::IMAGE`, as for
its archives, works for an image in a local file or directory. The package registers the protocol with fsspec, which is
an optional dependency.
"""

import errno
import io
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from fsspec import AbstractFileSystem

from ocifs.api.image import open_image
from ocifs.api.path import ImagePath
from ocifs.errors import UnsupportedError
from ocifs.image.rootfs import BUFFER_SIZE
from ocifs.options import Options
from ocifs.sources.reference import split_path
from ocifs.spec.platform import Platform
from ocifs.store import Store, default_directory

_SCHEME = "ocifs://"
_LOCAL = {None, "file", "local"}

Info = dict[str, Any]


def _divide(url: str) -> tuple[str, str]:
    """Return the image and the path of a URL; without `:/` after an image, all of it is the path."""
    if not url.startswith(_SCHEME):
        return "", url
    rest = url.removeprefix(_SCHEME)
    image, inside = split_path(rest)
    return ("", rest) if inside is None else (image, inside)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISREG(mode):
        return "file"
    return "link" if stat.S_ISLNK(mode) else "other"


class OpenFile(io.BufferedReader):
    """An open file with its `size` in bytes, which some methods of fsspec use."""

    def __init__(self, path: ImagePath) -> None:
        super().__init__(path.open("rb", 0), BUFFER_SIZE)
        self.size = path.inode().size


class OcifsFileSystem(AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """The files of one image, read-only: methods that write raise OSError (EROFS).

    fsspec keeps one filesystem for equal arguments, so a process opens an image once, and does not notice that a tag
    has moved; `skip_instance_cache=True` opens it again. Several threads may use a filesystem at the same time.

    In a listing a symlink to a file has the type `file`, and one to a directory `link`, so that walks end.
    """

    protocol = "ocifs"
    root_marker = "/"

    def __init__(
        self,
        image: str | None = None,
        *,
        fo: str | None = None,
        platform: str | None = None,
        layer: int | None = None,
        cache_dir: str | None = None,
        options: Options | None = None,
        **storage_options: object,
    ) -> None:
        """Open `image`, a reference as on the command line.

        `platform` and `layer` are as in `ocifs.Options`. Indexes are kept in the cache that the command line uses, or
        in `cache_dir`. `options` replaces these three. fsspec passes `fo` for a chained URL. Other arguments are
        those of fsspec.

        Raises what `ocifs.open` does, and ValueError without an image.
        """
        super().__init__(**storage_options)
        name = image or fo
        if not name:
            raise ValueError("no image: write ocifs://IMAGE:/PATH, or pass image=")
        if (outer := storage_options.get("target_protocol")) not in _LOCAL:
            raise UnsupportedError(f"an image cannot be read through the protocol {outer!r}: copy it to a file first")
        if options is None:
            options = Options(
                store=Store(Path(cache_dir) if cache_dir else default_directory()),
                platform=Platform.parse(platform) if platform else None,
                layer=layer,
            )
        self.image = open_image(name, options)
        """The opened image."""
        self._url = f"{_SCHEME}{name}:"

    def close(self) -> None:
        """Close the image; fsspec opens it again when its URL is next used."""
        self._cache.pop(self._fs_token, None)
        self.image.close()

    def path(self, path: str) -> ImagePath:
        """Return the path inside the image that a URL or a path names."""
        return self.image / str(self._strip_protocol(path))

    @classmethod
    def _strip_protocol(cls, path: str | list[str]) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        return "/" + _divide(os.fspath(path))[1].strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        image, _ = _divide(path)
        return {"image": image} if image else {}

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        return self._url + str(self._strip_protocol(name))

    def info(self, path: str, **_: object) -> Info:
        """Return the attributes of a file: `name`, `size`, `type`, `mode`, `uid`, `gid`, `mtime`, `islink` and others.

        Those of a symlink are the attributes of its target, if that exists. Raises OSError.
        """
        return _info(self.path(path), listed=False)

    def ls(self, path: str, detail: bool = True, **_: object) -> list[Any]:
        """Return the attributes of a directory's files, or their names; a file lists itself. Raises OSError."""
        found = self.path(path)
        if detail:
            return [_info(each, listed=True) for each in found.iterdir()] if found.is_dir() else [self.info(path)]
        return [str(each) for each in found.iterdir()] if found.is_dir() else [self.info(path)["name"]]

    def modified(self, path: str) -> datetime:
        """Return the time of modification. Raises OSError."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        """Return the bytes of a file from `start` to `end`; negative numbers count from its end. Raises OSError."""
        with OpenFile(self.path(path)) as file:
            first, last, _step = slice(start, end).indices(file.size)
            file.seek(first)
            return file.read(max(0, last - first))

    def _open(self, path: str, mode: str = "rb", **_: object) -> OpenFile:
        if mode != "rb":
            raise _read_only(path)
        return OpenFile(self.path(path))

    def _refuse(self, path: object, *_: object, **__: object) -> NoReturn:
        raise _read_only(str(path))

    cp_file = makedirs = mkdir = mv = pipe_file = put_file = rm = rm_file = rmdir = touch = _rm = _refuse


def _info(path: ImagePath, *, listed: bool) -> Info:
    own = path.lstat()
    shown = own
    found: Info = {"name": str(path), "islink": stat.S_ISLNK(own.st_mode)}
    if found["islink"]:
        found["destination"] = str(path.readlink())
        target = path.stat() if path.exists() else own
        if not (listed and stat.S_ISDIR(target.st_mode)):
            shown = target
    return found | {
        "size": shown.st_size,
        "type": _kind(shown.st_mode),
        "mode": shown.st_mode,
        "uid": shown.st_uid,
        "gid": shown.st_gid,
        "ino": shown.st_ino,
        "nlink": shown.st_nlink,
        "mtime": shown.st_mtime,
    }


def _read_only(path: str) -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS), path)
