"""An image in the storage of podman, buildah or CRI-O, read in place.

A store has layers extracted, not as blobs. So this module makes a manifest of uncompressed layers, whose digests are
the diff IDs in the image's config, and each layer is an `AssembledReader`. The cache has a table for each layer, under
the digest of its tar-split file; file contents stay in the store only.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from ocifs.blobs.kept import Keeping
from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError, printable_path
from ocifs.reader import BlobReader, FileReader
from ocifs.sources.assembled import AssembledReader, write_table
from ocifs.sources.blob import memory_blob
from ocifs.sources.containers_storage import (
    PodmanStore,
    StoredImage,
    StoredLayer,
    diff_id_of,
    find,
    open_stores,
    split_places,
    tags_in,
)
from ocifs.sources.reference import Reference
from ocifs.sources.source import LocalSource, NamedImage
from ocifs.spec.config import parse_config
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import shown
from ocifs.spec.manifest import Manifest, parse_document
from ocifs.spec.mediatypes import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from ocifs.store import Kind, Writer
from ocifs.tarsplit.entries import decode

TABLE = Kind("assembly", 1)
"""Where each piece of a stored layer's tar stream is (`ocifs.sources.assembled`), under its tar-split file's digest."""

_CHUNK = 1 << 20


class StoredImages(LocalSource):
    """The image that a name means in the first of several stores that has it."""

    def __init__(self, stores: Sequence[PodmanStore], name: str, keeping: Keeping) -> None:
        """`name` may be empty if only the tags are listed."""
        super().__init__(f"image {shown(name)} of containers-storage", keeping.limits)
        self._stores = stores
        self._name = name
        self._keeping = keeping
        self._described: tuple[StoredImage, Descriptor] | None = None
        self._blobs: dict[Digest, BlobReader] = {}
        self._files = ExitStack()
        for store in stores:
            self._files.callback(store.folder.close)

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return the manifest made for the image."""
        return (self._describe()[1],)

    def images(self) -> tuple[NamedImage, ...]:
        """Return the image."""
        image, descriptor = self._describe()
        return (NamedImage(image.names or (), descriptor),)

    def names(self) -> list[tuple[str, ...]]:
        """Return the names of the image."""
        return [self._describe()[0].names or ()]

    def tags(self) -> list[str]:
        """Return the tags in the repository of the name. Raises NotFoundError if there are none."""
        return tags_in(self._stores, self._name)

    def open(self, descriptor: Descriptor) -> BlobReader:
        """Return a blob of the image."""
        blob = self._blobs.get(descriptor.digest)
        if blob is None or blob.size != descriptor.size:
            raise NotFoundError(f"{self.name} has no blob {descriptor.digest} of {descriptor.size} bytes")
        return blob

    def close(self) -> None:
        """Close the stores and all blobs."""
        self._files.close()

    def _describe(self) -> tuple[StoredImage, Descriptor]:
        """Find the image, and make its manifest."""
        if self._described is None:
            store, image = find(self._stores, self._name)
            self._described = image, self._make_manifest(store, image)
        return self._described

    def _make_manifest(self, store: PodmanStore, image: StoredImage) -> Descriptor:
        config_data = self._config(store, image)
        config = parse_config(config_data, f"config of {self.name}")
        chain = store.chain(image)
        if len(chain) > self.limits.layers:
            raise self.limits.passed("layers", f"the image has {len(chain)} layers")
        if [*map(diff_id_of, chain)] != [*config.rootfs.diff_ids]:
            raise InvalidImageError(f"{self.name} has other layers than its config says: pull it again")
        manifest = Manifest(
            schema_version=2,
            media_type=OCI_MANIFEST,
            config=self._add(config_data, OCI_CONFIG),
            layers=tuple(self._layer(store, layer) for layer in chain),
        )
        return self._add(msgspec.json.encode(manifest, enc_hook=str), OCI_MANIFEST)

    def _config(self, store: PodmanStore, image: StoredImage) -> bytes:
        """Return the config, its digest verified."""
        most = self.limits.document
        manifest = parse_document(store.big_data(image, "manifest", most), f"manifest of {self.name}")
        if not isinstance(manifest, Manifest):
            raise UnsupportedError(f"{self.name} is an image index")
        digest = manifest.config.digest
        data = store.big_data(image, digest, most)
        if Digest.of(data, digest.algorithm) != digest:
            raise InvalidImageError(f"config {digest} of {self.name} is damaged: pull the image again")
        return data

    def _layer(self, store: PodmanStore, layer: StoredLayer) -> Descriptor:
        digest = diff_id_of(layer)
        if digest not in self._blobs:
            root = store.folder.open_directory(store.diff(layer))
            self._blobs[digest] = AssembledReader(self._table(store, layer), root)
        return Descriptor(media_type=OCI_LAYER, digest=digest, size=self._blobs[digest].size)

    def _table(self, store: PodmanStore, layer: StoredLayer) -> FileReader:
        """Return the table of a layer, from the cache or made now."""
        path = store.tar_split(layer)
        try:
            file = store.folder.open(path)
        except NotFoundError as error:
            raise UnsupportedError(
                f"layer {layer.id} has no tar-split file, so its tar cannot be made again: use `podman save NAME | "
                "ocifs … -`"
            ) from error
        hasher = hashlib.sha256()
        for offset in range(0, file.size, _CHUNK):
            hasher.update(file.pread(_CHUNK, offset))

        def build(out: Writer) -> None:
            with open(os.dup(file.fd), "rb") as packed:
                packed.seek(0)
                write_table(decode(packed, f"{store.folder.name}/{path}"), self.limits, out.write)

        table = self._keeping.store.get(TABLE, f"sha256:{hasher.hexdigest()}", build)
        self._files.callback(table.close)
        return table

    def _add(self, data: bytes, media_type: str) -> Descriptor:
        """Add a document as a blob, and return its descriptor."""
        blob = memory_blob(data)
        self._files.callback(os.close, blob.fd)
        digest = Digest.of(data)
        self._blobs[digest] = blob
        return Descriptor(media_type=media_type, digest=digest, size=len(data))


def open_stored_image(reference: Reference, keeping: Keeping) -> StoredImages:
    """Open the stores that a reference names; raises as `split_places` and `open_stores`, and NotFoundError."""
    places, name = split_places(reference.path)
    with ExitStack() as undo:
        stores: list[PodmanStore] = []
        for store in open_stores(places):
            undo.callback(store.folder.close)
            stores.append(store)
        undo.pop_all()
    if not stores:
        where = ", ".join(map(printable_path, places.roots))
        raise NotFoundError(
            f"no images of podman at {where}: name another store, as in containers-storage:[overlay@/GRAPHROOT]NAME"
        )
    return StoredImages(stores, name, keeping)
