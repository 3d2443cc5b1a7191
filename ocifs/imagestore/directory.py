"""The directory of a store: its files, written so that podman sees the old records or the new ones.

    overlay-images/   images.json, images.lock, ID/{manifest, =BASE64}
    overlay-layers/   layers.json, layers.lock, ID.tar-split.gz
    overlay/          the mountpoint
    ocifs.json, ocifs.lock

A command of ocifs holds `ocifs.lock` from beginning to end. It locks a `.lock` of containers/storage (fcntl(2)) only
while it replaces the records beside it. Then it writes random bytes into the lock, by which podman notices the change.
This module does not know what the records mean.
"""

import fcntl
import os
import shutil
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from ocifs.atomic import atomic_file
from ocifs.errors import StoreError, printable_path, raise_if_short
from ocifs.imagestore.records import (
    FORMAT,
    MAX_DOCUMENT,
    ImageRecord,
    LayerRecord,
    Records,
    StoreRecord,
    decode,
    encode,
)
from ocifs.trusted_directory import TrustedDirectory

MOUNTPOINT = "overlay"
IMAGES = "overlay-images"
LAYERS = "overlay-layers"
OWN = "ocifs.json"
TAR_SPLIT = ".tar-split.gz"
_LOCK = "ocifs.lock"
_STAMP_SIZE = 64
_PATIENCE = 30.0
"""Seconds that podman may hold a lock."""
_PAUSE = 0.02


class StoreDirectory:
    """An open store; every method raises StoreError if the directory or a file in it cannot be used."""

    def __init__(self, root: TrustedDirectory, images: TrustedDirectory, layers: TrustedDirectory) -> None:
        self.path = root.path
        """Without symlinks."""
        self._root = root
        self._images = images
        self._layers = layers
        self._public = bool(os.fstat(root.fd).st_mode & stat.S_IROTH)

    @property
    def mountpoint(self) -> str:
        """The real path of the mountpoint."""
        return str(self.path / MOUNTPOINT)

    @classmethod
    @contextmanager
    def opened(cls, path: Path, *, make: bool = False, mend: bool = False, public: bool = False) -> Iterator[Self]:
        """Open and lock a store. With `make`, create it if it is missing, for other users to read if `public`.

        With `mend`, create missing parts of an existing one.
        """
        shown = printable_path(str(path))
        try:
            root = _root(path, shown, make=make, public=public)
            store = cls(root, *(root.directory(name, make=make or mend) for name in (IMAGES, LAYERS)))
            if make or mend:
                store._make_files()
            lock = root.open_file(_LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise _failure(error, shown) from None
        try:
            _lock(lock, f"{shown}: another ocifs command")
            yield store
        except OSError as error:
            raise _failure(error, shown) from None
        finally:
            os.close(lock)

    def read(self) -> Records:
        """Read all records."""
        return Records(self.read_images(), self.read_layers(), self.read_own())

    def read_images(self) -> tuple[ImageRecord, ...]:
        """Read `images.json`."""
        return decode(self._read(self._images, "images.json"), tuple[ImageRecord, ...], f"{IMAGES}/images.json")

    def read_layers(self) -> tuple[LayerRecord, ...]:
        """Read `layers.json`."""
        return decode(self._read(self._layers, "layers.json"), tuple[LayerRecord, ...], f"{LAYERS}/layers.json")

    def read_own(self) -> StoreRecord:
        """Read our own record. Raises StoreError also if another version has written it."""
        own = decode(self._read(self._root, OWN) or b"{}", StoreRecord, OWN)
        if own.format != FORMAT:
            raise StoreError(
                f"the store has format {own.format}, this version of ocifs writes {FORMAT}: use the version that made "
                "it, or make a new store"
            )
        return own

    def write(self, records: Records) -> None:
        """Replace the records: add layers before the images that use them, and remove layers after such images."""
        self._write(self._root, OWN, encode(records.own))
        with self._locked(self._layers, "layers.lock") as stamp_layers:
            before = self._existing_layers()
            known = {each.id for each in records.layers}
            unused = tuple(each for each in before if each.id not in known)
            self._write(self._layers, "layers.json", encode((*records.layers, *unused)))
            with self._locked(self._images, "images.lock") as stamp_images:
                self._write(self._images, "images.json", encode(records.images))
                stamp_images()
            if unused:
                self._write(self._layers, "layers.json", encode(records.layers))
            stamp_layers()

    def write_data(self, image: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Write the data of an image, each under its file name."""
        with self._failing():
            directory = self._images.directory(image, make=True)
            os.fchmod(directory.fd, self._mode(0o755))
            for name, data in files:
                self._write(directory, name, data)

    def write_tar_split(self, layer: str, pieces: Callable[[], Iterable[bytes]]) -> None:
        """Write the tar-split of a layer; on an error of `pieces`, nothing is left."""
        with self._failing(), self._file(self._layers, layer + TAR_SPLIT) as file:
            for piece in pieces():
                file.write(piece)

    def open_tar_split(self, layer: str) -> BinaryIO:
        """Open the tar-split of a layer. Raises FileNotFoundError if there is none."""
        return open(self._layers.open_file(layer + TAR_SPLIT, os.O_RDONLY), "rb")

    def remove_tar_split(self, layer: str) -> None:
        """Remove the tar-split of a layer, if there is one."""
        with self._failing():
            self._layers.unlink(layer + TAR_SPLIT)

    def has_tar_split(self, layer: str) -> bool:
        """Whether the tar-split of a layer exists."""
        with self._failing():
            return self._exists(self._layers, layer + TAR_SPLIT)

    def data_of(self, image: str) -> dict[str, int]:
        """Return the size of each file in an image's directory; empty if there is none."""
        with self._failing():
            try:
                return {name: status.st_size for name, status in self._images.directory(image).files()}
            except FileNotFoundError:
                return {}

    def remove_unused(self, records: Records) -> None:
        """Remove the data of images and the tar-splits of layers that the records do not have, and temporary files."""
        images, layers = {each.id for each in records.images}, {each.id + TAR_SPLIT for each in records.layers}
        with self._failing():
            for name in os.listdir(self._images.fd):
                if name not in images and stat.S_ISDIR(self._images.status(name).st_mode):
                    shutil.rmtree(name, dir_fd=self._images.fd)
            for name in os.listdir(self._layers.fd):
                if name not in layers and (name.endswith(TAR_SPLIT) or name.startswith(".ocifs-")):
                    self._layers.unlink(name)
            for directory in (self._root, self._images):
                for name in os.listdir(directory.fd):
                    if name.startswith(".ocifs-"):
                        directory.unlink(name)

    def _existing_layers(self) -> tuple[LayerRecord, ...]:
        try:
            return self.read_layers()
        except StoreError:  # damaged: the new records replace it
            return ()

    def _make_files(self) -> None:
        """Make the files that podman needs in an empty store."""
        os.fchmod(self._root.fd, self._mode(0o755))
        for directory, lock, records in (
            (self._images, "images.lock", "images.json"),
            (self._layers, "layers.lock", "layers.json"),
        ):
            os.fchmod(directory.fd, self._mode(0o755))
            fd = directory.open_file(lock, os.O_RDWR | os.O_CREAT)
            os.fchmod(fd, self._mode(0o644))
            os.close(fd)
            if not self._exists(directory, records):
                self._write(directory, records, b"[]")
        with suppress(FileExistsError):
            os.mkdir(MOUNTPOINT, 0o700, dir_fd=self._root.fd)
        if not self._exists(self._root, OWN):
            self._write(self._root, OWN, encode(StoreRecord()))

    def _mode(self, mode: int) -> int:
        return mode if self._public else mode & 0o700

    def _read(self, directory: TrustedDirectory, name: str) -> bytes:
        with self._failing():
            try:
                data = directory.read_file(name, MAX_DOCUMENT + 1)
            except FileNotFoundError:
                return b""
        if len(data) > MAX_DOCUMENT:
            raise StoreError(f"{printable_path(str(directory.path / name))} has more than {MAX_DOCUMENT} bytes")
        return data

    def _write(self, directory: TrustedDirectory, name: str, data: bytes) -> None:
        with self._file(directory, name) as file:
            file.write(data)

    @contextmanager
    def _file(self, directory: TrustedDirectory, name: str) -> Iterator[BinaryIO]:
        with self._failing(), atomic_file(directory.fd, name, 0o600) as file:
            os.fchmod(file.fileno(), self._mode(0o644))
            yield file

    @staticmethod
    def _exists(directory: TrustedDirectory, name: str) -> bool:
        try:
            directory.status(name)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def _locked(self, directory: TrustedDirectory, name: str) -> Iterator[Callable[[], None]]:
        """Hold a lock of containers/storage; yield a function that notes a change."""
        with self._failing():
            fd = directory.open_file(name, os.O_RDWR | os.O_CREAT)
        try:
            os.fchmod(fd, self._mode(0o644))
            _lock(fd, f"{printable_path(str(directory.path / name))}: podman or another program")
            yield lambda: _stamp(fd)
        finally:
            os.close(fd)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _failure(error, printable_path(str(self.path))) from None


def _root(path: Path, shown: str, *, make: bool, public: bool) -> TrustedDirectory:
    """Open the directory of a store; with `make`, create it. Raises OSError, StoreError."""
    try:
        root = TrustedDirectory.open(path)
    except FileNotFoundError:
        if not make:
            raise StoreError(f"store {shown} does not exist: `ocifs store add {shown} IMAGE` makes it") from None
        root = TrustedDirectory.open(path, make=True)
    names = set(os.listdir(root.fd))
    if OWN not in names and (names if make else True):
        raise StoreError(f"{shown} is not a store of ocifs: it has no {OWN}: name another directory")
    if public and not names:
        os.fchmod(root.fd, 0o755)
    return root


def _lock(fd: int, holder: str) -> None:
    """Lock an open file against other programs (fcntl_locking(2)). Raises StoreError."""
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreError(f"{holder} holds the lock for too long: wait for its end, and try again") from None
            time.sleep(_PAUSE)
        else:
            return


def _stamp(fd: int) -> None:
    """Write random bytes, which containers/storage compares to notice a change (`lastwrite.go`)."""
    os.pwrite(fd, os.urandom(_STAMP_SIZE), 0)
    os.fsync(fd)


def _failure(error: OSError, shown: str) -> StoreError:
    raise_if_short(error)
    return StoreError(f"store {shown}: {error.strerror}")
