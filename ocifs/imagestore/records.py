"""The records of a store: `images.json` and `layers.json` of containers/storage, and `ocifs.json`, our own.

Source: `Image` in images.go and `Layer` in layers.go of github.com/containers/storage, and `storage_dest.go` of
github.com/containers/image for the IDs and the names of an image's data. Times are RFC 3339 text.
"""

import base64
import re
from hashlib import sha256
from typing import TypeVar

import msgspec

from ocifs.errors import StoreError
from ocifs.id_ranges import IdRange

MAX_DOCUMENT = 256 << 20
"""Bytes of a record that is read."""
FORMAT = 1
"""Version of `ocifs.json`."""

_PLAIN = re.compile(r"[a-z0-9.]*", re.ASCII)
_LINK_SIZE = 26
"""Characters of the name of a layer's directory in `l/`, as containers/storage has them."""
_COMPRESSIONS = {"tar": 0, "gzip": 2, "zstd": 4}

T = TypeVar("T")


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A layer. The digests of an unverified layer are those of no other image."""

    id: str
    parent: str = ""
    """ID of the layer below; empty for a base layer."""
    created: str
    compressed_digest: str = msgspec.field(default="", name="compressed-diff-digest")
    compressed_size: int = msgspec.field(default=0, name="compressed-size")
    diff_digest: str = msgspec.field(default="", name="diff-digest")
    diff_size: int = msgspec.field(default=0, name="diff-size")
    compression: int = 0
    uids: tuple[int, ...] = msgspec.field(default=(), name="uidset")
    """The owners of the layer's files, from which `--userns=auto` computes the size of a user namespace."""
    gids: tuple[int, ...] = msgspec.field(default=(), name="gidset")

    @property
    def is_verified(self) -> bool:
        """Whether podman may use it for other images."""
        return bool(self.compressed_digest)


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image; its manifest and config are files of the directory `ID`."""

    id: str
    digest: str
    names: tuple[str, ...] = ()
    layer: str = ""
    """ID of the topmost layer; empty for an image without layers."""
    metadata: str = ""
    data_names: tuple[str, ...] = msgspec.field(default=(), name="big-data-names")
    data_sizes: dict[str, int] = msgspec.field(default={}, name="big-data-sizes")
    data_digests: dict[str, str] = msgspec.field(default={}, name="big-data-digests")
    created: str = ""


class ImageOrigin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where an image of the store comes from: enough to open it again."""

    id: str
    """ID of the image."""
    reference: str
    """With an absolute path, and for a registry with a digest."""
    platform: str = ""
    trust_index: bool | None = None
    toc: str = ""
    digest: str
    """Digest of the manifest."""
    names: tuple[str, ...] = ()
    """As in `ImageRecord`, for a repair."""


class IdRanges(msgspec.Struct, frozen=True):
    """The owners in images as a rootless podman of one user has them."""

    user: str
    kind: str
    """`idmap`: the mount maps them; `subuid`: the tree image has mapped ones."""
    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]


class StoreRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Our own record."""

    format: int = FORMAT
    ids: IdRanges | None = None
    images: tuple[ImageOrigin, ...] = ()


class Records(msgspec.Struct, frozen=True):
    """All records of a store."""

    images: tuple[ImageRecord, ...] = ()
    layers: tuple[LayerRecord, ...] = ()
    own: StoreRecord = StoreRecord()

    def image(self, name: str) -> ImageRecord | None:
        """Return the image with this name or ID, of which the first digits suffice if no other ID begins with them."""
        exact = [each for each in self.images if name == each.id or name in each.names]
        short = [each for each in self.images if len(name) >= _SHORT_ID and each.id.startswith(name)]
        return exact[0] if exact else short[0] if len(short) == 1 else None

    def origin(self, image: str) -> ImageOrigin | None:
        """Return where an image comes from, by its ID."""
        return next((each for each in self.own.images if each.id == image), None)

    def chain(self, top: str) -> tuple[LayerRecord, ...]:
        """Return the layers up to `top`, the base first; empty if one of them is missing."""
        by_id = {each.id: each for each in self.layers}
        chain: list[LayerRecord] = []
        while top and (found := by_id.pop(top, None)) is not None:
            chain.append(found)
            top = found.parent
        return () if top else tuple(reversed(chain))

    def pruned(self) -> "Records":
        """Return the records without layers that no image uses, and without origins of images that are gone."""
        own = tuple(each for each in self.own.images if any(each.id == image.id for image in self.images))
        used = {layer.id: layer for image in self.images for layer in self.chain(image.layer)}
        return Records(self.images, tuple(used.values()), msgspec.structs.replace(self.own, images=own))


_SHORT_ID = 3


def layer_id(parent: str, diff_id: str) -> str:
    """Return the ID that containers/image gives to the layer with the hex digits of a diff ID on `parent`.

    A pull of another image with the same layers finds them by it.
    """
    return sha256(f"{parent}+{diff_id}".encode()).hexdigest() if parent else diff_id


def unverified_layer_id(parent: str, claims: bytes) -> str:
    """Return the ID of a layer whose published index is not verified: no other image can have it."""
    return sha256(b"ocifs, unverified:" + parent.encode() + b"+" + claims).hexdigest()


def compression_number(codec: str) -> int:
    """Return the number of a compression in containers/storage."""
    return _COMPRESSIONS[codec]


def link_name(layer: str) -> str:
    """Return the short name of a layer's directory, by which overlay mounts name it."""
    return base64.b32encode(sha256(layer.encode()).digest()).decode()[:_LINK_SIZE]


def data_file(name: str) -> str:
    """Return the name of the file that has the data `name` of an image."""
    return name if _PLAIN.fullmatch(name) else "=" + base64.b64encode(name.encode()).decode()


def decode(data: bytes, what: type[T], name: str) -> T:
    """Decode a record. Raises StoreError if it is malformed; an empty file is an empty record, as for podman."""
    try:
        return msgspec.json.decode(data or b"[]", type=what)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"{name} is damaged ({error}): run `ocifs store check --repair`") from None


def encode(records: object) -> bytes:
    """Encode a record."""
    return msgspec.json.encode(records)
