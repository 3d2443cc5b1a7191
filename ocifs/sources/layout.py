"""OCI image layouts (image-spec image-layout.md): `oci-layout`, `index.json` and `blobs/ALGORITHM/HEX`.

A layout is read through a `Folder`, so it may be a directory or a tar file. Tags are annotations of the descriptors
in `index.json`: the spec's, or the full name that containerd writes beside it. A digest may also name any blob that
is a manifest or an index.
"""

import os
from collections.abc import Collection
from contextlib import ExitStack
from itertools import islice
from typing import Protocol

import msgspec

from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError, printable_path
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import FileReader
from ocifs.sources.blob import memory_blob
from ocifs.sources.reference import Reference, matching
from ocifs.sources.source import Named, read_metadata
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode, shown
from ocifs.spec.manifest import ImageIndex, parse_document
from ocifs.spec.mediatypes import INDEXES, MANIFESTS, OCI_INDEX

_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"


class Folder(Protocol):
    """Files under relative paths, as a directory or an archive has them."""

    name: str

    def open(self, path: str) -> FileReader:
        """Return the file at `path`; the folder owns what it opens."""
        ...

    def close(self) -> None:
        """Close everything."""
        ...


class _OciLayout(msgspec.Struct, frozen=True, rename="camel"):
    image_layout_version: str


class Layout:
    """The images of one layout."""

    def __init__(self, folder: Folder, images: tuple[Descriptor, ...], limits: Limits) -> None:
        self.limits = limits
        self._folder = folder
        self._images = images
        self._blobs: dict[Digest, FileReader] = {}
        self._files = ExitStack()
        self._files.callback(folder.close)

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return what a tag, a digest or a position names; without any, the only tag, or `latest`."""
        if reference.digest is not None:
            return (self._named_by_digest(reference.digest),)
        if reference.position is not None:
            if reference.position >= len(self._images):
                raise NotFoundError(
                    f"{self._folder.name} has no image @{reference.position}: {self._choices(self._images)}"
                )
            return (self._images[reference.position],)
        named = {image.digest: image for image in self._tagged(reference.tag)}
        platforms = {image.platform for image in named.values()}
        if len(named) > 1 and (None in platforms or len(platforms) < len(named)):
            raise NotFoundError(f"{reference} names several images: {self._choices(named.values())}")
        return tuple(named.values())

    def images(self) -> tuple[Named, ...]:
        """Return the images and indexes that `index.json` lists."""
        return tuple(Named(_names(image), image) for image in self._images)

    def open(self, descriptor: Descriptor) -> FileReader:
        """Return a blob: what the descriptor embeds, else the file under its digest."""
        blob = self._blobs.get(descriptor.digest)
        if blob is None:
            blob = self._open(descriptor) if descriptor.data is None else self._embedded(descriptor)
            self._blobs[descriptor.digest] = blob
        if blob.size != descriptor.size:
            raise InvalidImageError(
                f"blob {descriptor.digest} in {self._folder.name} has {blob.size} bytes, its descriptor says "
                f"{descriptor.size}: copy the image again"
            )
        return blob

    def close(self) -> None:
        """Close the folder and what was opened."""
        self._files.close()

    def _open(self, descriptor: Descriptor) -> FileReader:
        try:
            return self._open_digest(descriptor.digest)
        except NotFoundError as error:
            way_out = "its `urls` are not followed" if descriptor.urls else "copy the image again"
            raise NotFoundError(f"cannot read blob {descriptor.digest}: {error}; {way_out}") from error

    def _open_digest(self, digest: Digest) -> FileReader:
        return self._folder.open(f"blobs/{digest.algorithm}/{digest.hex}")

    def _embedded(self, descriptor: Descriptor) -> FileReader:
        data = descriptor.data or b""
        if Digest.of(data, descriptor.digest.algorithm) != descriptor.digest:
            raise InvalidImageError(f"the data embedded for blob {descriptor.digest} have another digest")
        blob = memory_blob(data)
        self._files.callback(os.close, blob.fd)
        return blob

    def _named_by_digest(self, digest: Digest) -> Descriptor:
        for image in self._images:
            if image.digest == digest:
                return image
        try:
            blob = self._open_digest(digest)
        except NotFoundError as error:
            raise NotFoundError(f"no image {digest} in {self._folder.name}: {self._choices(self._images)}") from error
        name = f"blob {digest} in {self._folder.name}"
        document = parse_document(read_metadata(blob, name, self.limits), name)
        return Descriptor(media_type=document.media_type, digest=digest, size=blob.size)

    def _tagged(self, tag: str | None) -> list[Descriptor]:
        names = [_names(image) for image in self._images]
        if tag is None:
            tags = {own[0] for own in names if own}
            if not tags:
                return self._untagged()
            tag = tags.pop() if len(tags) == 1 else "latest"
            missing = f"{self._folder.name} has several images, name one"
        else:
            missing = f"no image '{printable_path(tag)}' in {self._folder.name}"
        found = [self._images[i] for i in matching(tag, names)]
        if not found:
            raise NotFoundError(f"{missing}: {self._choices(self._images)}")
        return found

    def _untagged(self) -> list[Descriptor]:
        if not self._images:
            raise NotFoundError(f"{self._folder.name} has no image")
        return list(self._images)

    def _choices(self, images: Collection[Descriptor], limit: int = 20) -> str:
        """List the images by names that choose them: the tag if no other image has it, else the digest."""
        names = [_names(image) for image in self._images]
        choices = []
        for image in islice(images, limit):
            alone = [name for name in _names(image) if len(matching(name, names)) == 1]
            choices.append(f":{shown(alone[-1])}" if alone else f"@{image.digest}")
        more = ", …" if len(images) > limit else ""
        return f"choose one of {', '.join(choices)}{more}" if choices else "it has none"


def open_layout(folder: Folder, limits: Limits = DEFAULT_LIMITS) -> Layout:
    """Return the layout in `folder`, which is its to close from then on.

    Raises:
        InvalidImageError: It is no layout, or its `index.json` is malformed.
        UnsupportedError: It is a layout of another version.
        LimitError: A document is too large.
    """
    name = f"{folder.name}/oci-layout"
    try:
        version = decode(read_metadata(folder.open("oci-layout"), name, limits), _OciLayout, name).image_layout_version
    except NotFoundError as error:
        raise InvalidImageError(f"{folder.name} is not an OCI layout: {error}") from error
    if not version.startswith("1.0."):
        raise UnsupportedError(f"{name} states version '{shown(version)}'; ocifs reads 1.0.x")
    name = f"{folder.name}/index.json"
    index = parse_document(read_metadata(folder.open("index.json"), name, limits), name, OCI_INDEX)
    if not isinstance(index, ImageIndex):
        raise InvalidImageError(f"{name} is not an image index")
    return Layout(folder, tuple(image for image in index.manifests if _is_image(image)), limits)


def _is_image(descriptor: Descriptor) -> bool:
    return descriptor.media_type in INDEXES | MANIFESTS and descriptor.artifact_type is None


def _names(image: Descriptor) -> tuple[str, ...]:
    """Return the names of an image, the full one first."""
    return tuple(image.annotations[key] for key in (_FULL_NAME, _REF_NAME) if key in image.annotations)
