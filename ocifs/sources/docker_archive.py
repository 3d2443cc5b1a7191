"""Archives of `docker save`: `manifest.json`, and the configs and layers that it names.

Source: Docker's "Image specification v1.2", "Combined Image JSON + Filesystem Changeset Format". Such an archive has
neither media types nor manifests, so this module makes a manifest for the chosen image, and the rest of ocifs sees no
difference. The digest of an uncompressed layer is its diff ID; that of a compressed one comes from its path, or is
computed. Archives of Docker before 1.10 have no `manifest.json`: they are recognised and refused.
"""

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError, counted, printable_path
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import BlobReader
from ocifs.sources.archive import Archive
from ocifs.sources.blob import memory_blob
from ocifs.sources.magic import sniff_layer
from ocifs.sources.reference import Reference, choices, matching
from ocifs.sources.source import LocalSource, NamedImage, read_metadata
from ocifs.spec.config import parse_config
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import DiffID, Digest
from ocifs.spec.document import decode, shown
from ocifs.spec.manifest import Manifest
from ocifs.spec.mediatypes import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST

_BLOBS = "blobs/sha256/"
_BEFORE_1_10 = re.compile(rb"repositories|[0-9a-f]{64}/json")


class _SavedImage(msgspec.Struct, frozen=True, rename="pascal"):
    """An item of `manifest.json`."""

    config: str
    repo_tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


class DockerArchive(LocalSource):
    """The images of one archive."""

    def __init__(self, archive: Archive, images: tuple[_SavedImage, ...], limits: Limits) -> None:
        super().__init__(archive.name, limits)
        self._archive = archive
        self._images = images
        self._blobs: dict[Digest, BlobReader] = {}
        """Manifests, configs and layers of the images resolved so far."""
        self._files = ExitStack()
        self._files.callback(archive.close)

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return the manifest made for the image that a name or a position selects, or for the only image."""
        return (self._describe_image(self._images[self._choose(reference)]),)

    def images(self) -> tuple[NamedImage, ...]:
        """Return the images, each with a manifest made for it."""
        return tuple(NamedImage(image.repo_tags, self._describe_image(image)) for image in self._images)

    def tags(self) -> list[str]:
        """Return all names of the images."""
        return list(dict.fromkeys(name for names in self.names() for name in names))

    def names(self) -> list[tuple[str, ...]]:
        """Return the names of each image."""
        return [image.repo_tags for image in self._images]

    def _describe_image(self, image: _SavedImage) -> Descriptor:
        """Make the manifest and return its descriptor."""
        name = f"member {shown(image.config)} of {self._archive.name}"
        config_blob = self._archive.open(image.config)
        data = read_metadata(config_blob, name, self.limits)
        diff_ids = parse_config(data, name).rootfs.diff_ids
        if len(diff_ids) != len(image.layers):
            given, needed = counted(len(diff_ids), "diff ID"), counted(len(image.layers), "layer")
            raise InvalidImageError(f"{name} has {given} for {needed}")
        config = self._describe(config_blob, OCI_CONFIG, Digest.of(data))
        layers = tuple(map(self._layer, image.layers, diff_ids))
        manifest = Manifest(schema_version=2, media_type=OCI_MANIFEST, config=config, layers=layers)
        text = msgspec.json.encode(manifest, enc_hook=str)
        blob = memory_blob(text)
        self._files.callback(os.close, blob.fd)
        return self._describe(blob, OCI_MANIFEST, Digest.of(text))

    def open(self, descriptor: Descriptor) -> BlobReader:
        """Return a blob of an image that was resolved."""
        blob = self._blobs.get(descriptor.digest)
        if blob is None or blob.size != descriptor.size:
            raise NotFoundError(f"{self._archive.name} has no blob {descriptor.digest} of {descriptor.size} bytes")
        return blob

    def close(self) -> None:
        """Close the archive and all blobs."""
        self._files.close()

    def _choose(self, reference: Reference) -> int:
        name, entries = self._archive.name, range(len(self._images))
        if reference.position is not None:
            if reference.position in entries:
                return reference.position
            raise NotFoundError(f"{name} has no image @{reference.position}: {self._choices(entries)}")
        if reference.digest is not None:
            raise NotFoundError(f"no image {reference.digest} in {name}: {self._choices(entries)}")
        if reference.tag is None and len(self._images) < 2:
            if not self._images:
                raise NotFoundError(f"{name} has no image")
            return 0
        found = matching("latest" if reference.tag is None else reference.tag, self.names())
        if len(found) == 1:
            return found[0]
        if reference.tag is None:
            raise NotFoundError(f"{name} has several images, name one: {self._choices(entries)}")
        if not found:
            raise NotFoundError(f"no image '{printable_path(reference.tag)}' in {name}: {self._choices(entries)}")
        raise NotFoundError(f"{reference} names several images: {self._choices(found)}")

    def _choices(self, images: Sequence[int]) -> str:
        return choices([(self._images[number].repo_tags[::-1], f":@{number}") for number in images], self.names())

    def _layer(self, path: str, diff_id: DiffID) -> Descriptor:
        name = f"layer {shown(path)} of {self._archive.name}"
        blob = self._archive.open(path)
        compression = sniff_layer(blob, name)
        if compression == "tar":
            return self._describe(blob, OCI_LAYER, diff_id)
        hex_digits = path.removeprefix(_BLOBS)
        digest = self._archive.sha256(blob) if hex_digits == path else Digest(f"sha256:{hex_digits}")
        return self._describe(blob, f"{OCI_LAYER}+{compression}", digest)

    def _describe(self, blob: BlobReader, media_type: str, digest: Digest) -> Descriptor:
        self._blobs[digest] = blob
        return Descriptor(media_type=media_type, digest=digest, size=blob.size)


def open_docker_archive(archive: Archive, limits: Limits = DEFAULT_LIMITS) -> DockerArchive:
    """Return the source for `archive`, which it closes.

    Raises:
        InvalidImageError: It is not such an archive, or its `manifest.json` is malformed.
        UnsupportedError: Docker before 1.10 wrote it.
    """
    name = f"manifest.json of {archive.name}"
    try:
        data = read_metadata(archive.open("manifest.json"), name, limits)
    except NotFoundError as error:
        if any(map(_BEFORE_1_10.fullmatch, archive.names())):
            raise UnsupportedError(
                f"{archive.name} was saved by Docker before 1.10, without manifest.json: load it with `docker load` "
                "of Docker 1.10 to 28, and save it again"
            ) from error
        raise InvalidImageError(f"{archive.name} was not written by `docker save`: {error}") from error
    return DockerArchive(archive, decode(data, tuple[_SavedImage, ...], name), limits)
