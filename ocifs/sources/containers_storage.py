"""The storage of podman, buildah and CRI-O (github.com/containers/storage): where it is, and which images it has.

Sources: containers-storage.conf(5), containers-transports(5), and the files that podman writes. A store is a graph
root with a driver: `DRIVER-images` and `DRIVER-layers` hold JSON, and `DRIVER` the extracted layers. Podman replaces
its JSON by renaming, so it is read without locks. IDs are checked before they become parts of paths, and nothing that
another user may have put into a store leads out of it (`Directory`).
"""

import base64
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from ocifs.errors import (
    InvalidImageError,
    LimitError,
    NotFoundError,
    OcifsError,
    UnsupportedError,
    printable_path,
)
from ocifs.sources.directory import Directory
from ocifs.sources.reference import matching
from ocifs.spec.digest import DiffID, Digest
from ocifs.spec.document import decode, shown

T = TypeVar("T")

SUPPORTED = ("overlay", "vfs")
"""Drivers whose layers are directories that only change with the image."""
_OTHERS = ("aufs", "btrfs", "devicemapper", "zfs", "overlay2")
_MAX_LIST = 64 << 20
"""Bytes of images.json or layers.json: some 50,000 images."""
_MAX_LAYERS = 1000
_ID = re.compile(r"[0-9a-f]{64}")
_SPECIFIC = re.compile(r"\[(?:([a-z0-9]+)@)?(/[^+\]]*)?(?:\+(/[^:\]]*))?(?::[^\]]*)?\](.*)", re.DOTALL)
_PLAIN = re.compile(r"[.0-9a-z]+")
_SYSTEM_CONF = (Path("/etc/containers/storage.conf"), Path("/usr/share/containers/storage.conf"))
_SYSTEM_ROOT = "/var/lib/containers/storage"


class StoredImage(msgspec.Struct, frozen=True):
    """An item of images.json."""

    id: str
    digest: str = ""
    names: tuple[str, ...] | None = None
    layer: str = ""
    """The top layer; empty: the image has none."""


class StoredLayer(msgspec.Struct, frozen=True):
    """An item of layers.json."""

    id: str
    parent: str = ""
    diff_digest: str = msgspec.field(default="", name="diff-digest")


class _Options(msgspec.Struct, frozen=True):
    additionalimagestores: tuple[str, ...] = ()


class _Storage(msgspec.Struct, frozen=True):
    driver: str = ""
    graphroot: str = ""
    rootless_storage_path: str = ""
    imagestore: str = ""
    options: _Options = _Options()


class _File(msgspec.Struct, frozen=True):
    storage: _Storage = _Storage()


class Places(NamedTuple):
    """Where to look for an image."""

    roots: tuple[str, ...]
    """Graph roots, the user's own first, then the additional image stores."""
    driver: str
    """Empty: whichever driver a store has."""


class PodmanStore(NamedTuple):
    """One graph root with one driver."""

    folder: Directory
    driver: str
    images: tuple[StoredImage, ...]

    def chain(self, image: StoredImage) -> list[StoredLayer]:
        """Return the layers of an image, the base first.

        Raises:
            InvalidImageError: A layer is missing, or its parents do not end.
        """
        listed = _list(self.folder, f"{self.driver}-layers/layers.json", list[StoredLayer])
        layers = {layer.id: layer for layer in listed}
        chain: list[StoredLayer] = []
        following = image.layer
        while following:
            if (layer := layers.get(following)) is None:
                raise InvalidImageError(f"the store {self.folder.name} has no layer {shown(following)}: pull again")
            chain.append(layer)
            if len(chain) > _MAX_LAYERS:
                raise InvalidImageError(f"the store {self.folder.name} has a layer whose parents do not end")
            following = layer.parent
        return chain[::-1]

    def big_data(self, image: StoredImage, key: str, limit: int) -> bytes:
        """Return a document of an image by its key. Raises NotFoundError, LimitError."""
        name = key if _PLAIN.fullmatch(key) else "=" + base64.b64encode(key.encode()).decode()
        return _read(self.folder, f"{self.driver}-images/{_checked(image.id)}/{name}", limit)

    def tar_split(self, layer: StoredLayer) -> str:
        """Return the path of the layer's tar-split file in the store."""
        return f"{self.driver}-layers/{_checked(layer.id)}.tar-split.gz"

    def diff(self, layer: StoredLayer) -> str:
        """Return the path in the store of the directory that the layer was extracted to."""
        return f"overlay/{_checked(layer.id)}/diff" if self.driver == "overlay" else f"vfs/dir/{_checked(layer.id)}"


def split_places(name: str) -> tuple[Places, str]:
    """Split `[DRIVER@GRAPHROOT+RUNROOT:OPTIONS]NAME` into where to look and the name; the configuration has defaults.

    Raises:
        NotFoundError: The brackets are malformed.
        OcifsError: A configuration file is malformed.
    """
    if not name.startswith("["):
        return configured(), name
    match = _SPECIFIC.fullmatch(name)
    if match is None:
        raise NotFoundError(
            f"malformed store in '{printable_path(name)}': write containers-storage:[DRIVER@/GRAPHROOT+/RUNROOT]NAME"
        )
    driver, root, _, rest = match.groups()
    default = configured() if root is None else Places((root,), "")
    return default._replace(driver=driver or default.driver), rest


def configured() -> Places:
    """Return the stores that storage.conf names for this user (containers-storage.conf(5)).

    Raises:
        OcifsError: The file is malformed or cannot be read.
    """
    is_root = os.geteuid() == 0
    home = Path(os.environ.get("HOME") or "/root")
    own = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/storage.conf"
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "containers/storage"
    named = os.environ.get("CONTAINERS_STORAGE_CONF")
    files = (Path(named),) if named else _SYSTEM_CONF if is_root else (own, *_SYSTEM_CONF)
    path = next((each for each in files if named or each.exists()), None)
    found = _Storage() if path is None else _configuration(path)
    stated = found.graphroot if is_root or path == own or named else ""  # the system's is for root
    root = stated or (_SYSTEM_ROOT if is_root else str(data))
    if not is_root and found.rootless_storage_path:
        known = {"$HOME": str(home), "$UID": str(os.geteuid()), "$USER": os.environ.get("USER", "")}
        root = re.sub(r"\$(?:HOME|UID|USER)", lambda each: known[each[0]], found.rootless_storage_path)
    others = [found.imagestore, *found.options.additionalimagestores]
    roots = dict.fromkeys([root, *(each for each in others if each)])
    return Places(tuple(roots), os.environ.get("STORAGE_DRIVER") or found.driver)


def open_stores(places: Places) -> Iterator[PodmanStore]:
    """Yield the stores that exist; the caller closes the folder of each.

    Raises:
        UnsupportedError: A store has a driver whose layers cannot be read in place.
        NotFoundError: A store cannot be read.
        InvalidImageError: Its list of images is malformed.
    """
    for root in places.roots:
        try:
            folder = Directory.at(root)
        except NotFoundError:
            if root == places.roots[0] and not os.path.lexists(root):
                continue
            raise
        try:
            driver = _driver(root, places.driver)
            images = _list(folder, f"{driver}-images/images.json", list[StoredImage]) if driver else []
        except BaseException:
            folder.close()
            raise
        if driver:
            yield PodmanStore(folder, driver, tuple(images))
        else:
            folder.close()


def find(stores: Sequence[PodmanStore], name: str) -> tuple[PodmanStore, StoredImage]:
    """Return the image that a name, a digest or an ID means in the first store that has one.

    A name may lack its first components, such as `localhost/`, if it still means one image; without a tag, `latest`.

    Raises:
        NotFoundError: There is no such image, or several.
    """
    for store in stores:
        found = _matches(store.images, name)
        if len(found) > 1:
            names = sorted(each for i in found for each in store.images[i].names or ())
            raise NotFoundError(
                f"'{shown(name)}' names several images in {store.folder.name}: {', '.join(map(shown, names[:20]))}"
            )
        if found:
            return store, store.images[found[0]]
    where = ", ".join(store.folder.name for store in stores)
    raise NotFoundError(f"no image '{shown(name)}' in {where}; `podman images` lists them")


def tags_in(stores: Sequence[PodmanStore], name: str) -> list[str]:
    """Return the tags of the images in the repository of a name. Raises NotFoundError if there are none."""
    wanted = _untagged(name.partition("@")[0])
    names = [each for store in stores for image in store.images for each in image.names or () if "@" not in each]
    found = {each[len(_untagged(each)) + 1 :] for each in names if _is_end(wanted, _untagged(each))}
    if not found:
        raise NotFoundError(f"no image in the repository '{shown(wanted)}'; `podman images` lists them")
    return sorted(found)


def _matches(images: Sequence[StoredImage], name: str) -> list[int]:
    bare = name.removeprefix("@").removeprefix("sha256:")
    if _ID.fullmatch(bare) and (found := [i for i, image in enumerate(images) if bare == image.id]):
        return found
    repository, at, digest = name.partition("@")
    if at:
        return [
            i
            for i, image in enumerate(images)
            if image.digest == digest
            and (not repository or any(_is_end(repository, _untagged(each)) for each in image.names or ()))
        ]
    tagged = name if _untagged(name) != name else f"{name}:latest"
    return matching(tagged, [image.names or () for image in images])


def _untagged(name: str) -> str:
    """Return a name without its tag and digest."""
    name = name.partition("@")[0]
    return name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name


def _is_end(repository: str, full: str) -> bool:
    return f"/{full}".endswith(f"/{repository}")


def diff_id_of(layer: StoredLayer) -> DiffID:
    """Return the diff ID of a layer. Raises UnsupportedError if the store does not know it."""
    if not layer.diff_digest:
        raise UnsupportedError(f"the store has no digest of layer {layer.id}: use `podman save NAME | ocifs … -`")
    return DiffID(Digest(layer.diff_digest))


def _driver(root: str, wanted: str) -> str:
    """Return the driver of a store: the configured one, or the only one that it has; empty: it has no images."""
    present = [each for each in (*SUPPORTED, *_OTHERS) if os.path.lexists(f"{root}/{each}-images/images.json")]
    driver = wanted if wanted in present else next(iter(present), "")
    if driver and driver not in SUPPORTED:
        raise UnsupportedError(
            f"the store {printable_path(root)} has the driver {driver}: ocifs reads overlay and vfs in place: use "
            "`podman save NAME | ocifs … -`"
        )
    return driver


def _checked(layer_or_image: str) -> str:
    """Return an ID, which becomes a part of a path. Raises InvalidImageError for anything else."""
    if not _ID.fullmatch(layer_or_image):
        raise InvalidImageError(
            f"the store lists the ID '{shown(layer_or_image)}', which is not an ID: pull the image again"
        )
    return layer_or_image


def _list(folder: Directory, path: str, expected: type[T]) -> T:
    return decode(_read(folder, path, _MAX_LIST), expected, f"{folder.name}/{path}")


def _read(folder: Directory, path: str, limit: int) -> bytes:
    """Return a file of a store; it is closed with the store."""
    file = folder.open(path)
    if file.size > limit:
        raise LimitError(f"{folder.name}/{path} has {file.size} bytes, more than {limit}")
    return file.pread(file.size, 0)


def _configuration(path: Path) -> _Storage:
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _File).storage
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OcifsError(f"cannot use {printable_path(str(path))}: {shown(str(reason), 200)}") from error
