"""OCI image layouts (image-spec image-layout.md): `oci-layout`, `index.json` and `blobs/ALGORITHM/HEX`.

A layout is read through a `Folder`, so it may be a directory or a tar file. Tags are annotations of the descriptors
in `index.json`: the one of the specification, or containerd's with the full name. A digest may also name any blob that
is a manifest or an index.
"""

import os
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Protocol

import msgspec

from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError, printable_path
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import BlobReader, BytesReader, FileReader
from ocifs.sources.blob import memory_blob
from ocifs.sources.directory import Directory
from ocifs.sources.platforms import with_platforms
from ocifs.sources.reference import Reference, choices, matching
from ocifs.sources.referrers import NewBlob, Referrers
from ocifs.sources.source import LocalSource, NamedImage, descriptor_of, read_metadata
from ocifs.spec.artifact import parse_artifact, referrers_tag
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode, parse_json, shown
from ocifs.spec.manifest import parse_index
from ocifs.spec.mediatypes import INDEXES, MANIFESTS, describe_non_image

_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"


class Folder(Protocol):
    """Files with relative paths: a directory or an archive."""

    name: str
    is_compressed: bool
    """Whether its files are parts of a compressed one."""

    def open(self, path: str) -> BlobReader:
        """Return the file at `path`; the folder owns what it opens."""
        ...

    def close(self) -> None:
        """Close everything."""
        ...


class _OciLayout(msgspec.Struct, frozen=True, rename="camel"):
    image_layout_version: str


class Layout(LocalSource):
    """The images of one layout."""

    def __init__(self, folder: Folder, listed: tuple[Descriptor, ...], limits: Limits) -> None:
        super().__init__(folder.name, limits)
        self.docker_reference = ""
        """The reference to the same file as an archive of `docker save`, if it is one too."""
        self._folder = folder
        self._images = tuple(filter(_is_image, listed))
        self._others = tuple(each for each in listed if not _is_image(each) and _names(each))
        """Tagged entries that are not images: artifacts, manifests of Docker's schema 1."""
        self._listed = listed
        self._blobs: dict[Digest, BlobReader] = {}
        self._files = ExitStack()
        self._files.callback(folder.close)

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return what a tag, a digest or a position names; without any, the only tag, or `latest`."""
        if reference.digest is not None:
            return (self._named_by_digest(reference.digest),)
        if reference.position is not None:
            return (self._at(reference.position),)
        named = list({image.digest: image for image in self._tagged(reference.tag)}.values())
        if len(named) > 1:
            named = with_platforms(self, named)
        platforms = {image.platform for image in named}
        if len(named) > 1 and (None in platforms or len(platforms) < len(named)):
            raise NotFoundError(f"{reference} names several images: {self._choices(named)}")
        return tuple(named)

    def pinned(self, reference: Reference, digest: Digest) -> str:
        """Return the absolute path with the digest."""
        return reference.absolute(digest)

    def images(self) -> tuple[NamedImage, ...]:
        """Return the images and indexes that `index.json` lists, then its other tagged entries."""
        return tuple(NamedImage(_names(each), each) for each in (*self._images, *self._others))

    def names(self) -> list[tuple[str, ...]]:
        """Return the names of each image and index, then of the other tagged entries, the fullest first."""
        return [_names(each) for each in (*self._images, *self._others)]

    def holds_an_image(self) -> bool:
        """Return whether any image that `index.json` lists exists."""
        return any(map(self._is_there, self._images))

    def open(self, descriptor: Descriptor) -> BlobReader:
        """Return a blob: the data that the descriptor embeds, else the file named by its digest."""
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
        """Close the folder and all blobs."""
        self._files.close()

    def referrers(self) -> Referrers:
        """Return itself: it holds the artifacts; but an index is used as a file, which a compressed archive has not."""
        if self._folder.is_compressed:
            return super().referrers()
        return self

    def list_referrers(self, subject: Descriptor, artifact_type: str) -> list[Descriptor]:
        """Return the artifacts of that type whose subject is `subject`."""
        named = [each for each in self._listed if each.artifact_type == artifact_type]
        return [each for each in named if self._subject(each) == subject.digest]

    def attach(self, subject: Descriptor, manifest: NewBlob, blobs: list[NewBlob]) -> None:
        """Write an artifact and list it in `index.json`, under a tag by which other tools can copy it."""
        tag = {_REF_NAME: referrers_tag(subject.digest)}
        listed = msgspec.structs.replace(manifest.descriptor, annotations=tag)
        self._add([*blobs, manifest], lambda members: [*_unlisted(members, listed), _to_json(listed)])

    def put(self, tag: str, manifests: list[NewBlob], blobs: list[NewBlob]) -> None:
        """Write an image, of which some blobs may exist, and list it under `tag`, which no other image keeps."""
        listed = msgspec.structs.replace(manifests[-1].descriptor, annotations={_REF_NAME: tag})
        self._add([*blobs, *manifests], lambda members: [*_untagged(members, tag), _to_json(listed)])

    def detach(self, subject: Descriptor, manifest: Descriptor) -> None:
        """Remove an artifact from `index.json`."""
        folder = self._writable()
        with folder.locked():
            self._relist(folder, lambda members: _unlisted(members, manifest))

    def _add(self, contents: list[NewBlob], change: Callable[[list[object]], list[object]]) -> None:
        """Write blobs, then change the list in `index.json`."""
        folder = self._writable()
        with folder.locked():
            for content in contents:
                digest = content.descriptor.digest
                folder.write(f"blobs/{digest.algorithm}/{digest.hex}", content.blob)
            self._relist(folder, change)

    def _subject(self, artifact: Descriptor) -> Digest | None:
        name = f"artifact {artifact.digest} in {self._folder.name}"
        subject = parse_artifact(self.document(artifact), name).subject
        return subject.digest if subject else None

    def _writable(self) -> Directory:
        if not isinstance(self._folder, Directory):
            raise UnsupportedError(f"cannot write to {self._folder.name}: it is an archive: use a layout directory")
        return self._folder

    def _relist(self, folder: Directory, change: Callable[[list[object]], list[object]]) -> None:
        """Rewrite `index.json` with a changed list of manifests; its other members stay."""
        name = f"{folder.name}/index.json"
        index = parse_json(read_metadata(folder.open("index.json"), name, self.limits), name)
        if not isinstance(index, dict) or not isinstance(index.get("manifests"), list):
            raise InvalidImageError(f"{name} is not an image index")
        data = msgspec.json.encode(index | {"manifests": change(index["manifests"])})
        folder.write("index.json", BytesReader(data))

    def _open(self, descriptor: Descriptor) -> BlobReader:
        try:
            return self._open_digest(descriptor.digest)
        except NotFoundError as error:
            hint = "its `urls` are not followed" if descriptor.urls else "copy the image again"
            raise NotFoundError(f"cannot read blob {descriptor.digest}: {error}; {hint}") from error

    def _open_digest(self, digest: Digest) -> BlobReader:
        return self._folder.open(f"blobs/{digest.algorithm}/{digest.hex}")

    def _embedded(self, descriptor: Descriptor) -> FileReader:
        data = descriptor.data or b""
        if Digest.of(data, descriptor.digest.algorithm) != descriptor.digest:
            raise InvalidImageError(f"the data embedded for blob {descriptor.digest} has another digest")
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
        return descriptor_of(blob, digest, f"blob {digest} in {self._folder.name}", self.limits)

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
        others = [self._others[i] for i in matching(tag, [_names(each) for each in self._others])]
        if not found and others:
            raise UnsupportedError(f"'{printable_path(tag)}' in {self._folder.name} is {_described(others[0])}")
        if not found:
            raise NotFoundError(f"{missing}: {self._choices(self._images)}")
        return found

    def _at(self, position: int) -> Descriptor:
        entries = (*self._images, *self._others)
        if position >= len(entries):
            raise NotFoundError(f"{self._folder.name} has no image @{position}: {self._choices(self._images)}")
        if not _is_image(entries[position]):
            raise UnsupportedError(f"@{position} of {self._folder.name} is {_described(entries[position])}")
        return entries[position]

    def _is_there(self, image: Descriptor) -> bool:
        try:
            self.open(image)
        except NotFoundError:
            return False
        return True

    def _untagged(self) -> list[Descriptor]:
        if not self._images and self._listed:
            raise UnsupportedError(f"{self._folder.name} has no image, only {_described(self._listed[0])}")
        if not self._images:
            raise NotFoundError(f"{self._folder.name} has no image")
        return list(self._images)

    def _choices(self, images: Collection[Descriptor]) -> str:
        return choices([(_names(image), f"@{image.digest}") for image in images], [*map(_names, self._images)])


def open_layout(folder: Folder, limits: Limits = DEFAULT_LIMITS) -> Layout:
    """Return the layout in `folder`, which it closes.

    Raises:
        InvalidImageError: It is not a layout, or its `index.json` is malformed.
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
    index = parse_index(read_metadata(folder.open("index.json"), name, limits), name)
    return Layout(folder, index.manifests, limits)


def _unlisted(members: list[object], descriptor: Descriptor) -> list[object]:
    return [each for each in members if not (isinstance(each, dict) and each.get("digest") == descriptor.digest)]


def _untagged(members: list[object], tag: str) -> list[object]:
    return [each for each in members if not (isinstance(each, dict) and _tag_of(each) == tag)]


def _tag_of(member: dict[str, object]) -> object:
    annotations = member.get("annotations")
    return annotations.get(_REF_NAME) if isinstance(annotations, dict) else None


def _to_json(descriptor: Descriptor) -> object:
    return msgspec.json.decode(msgspec.json.encode(descriptor, enc_hook=str))


def _is_image(descriptor: Descriptor) -> bool:
    return descriptor.media_type in INDEXES | MANIFESTS and descriptor.artifact_type is None


def _described(other: Descriptor) -> str:
    return describe_non_image(other.media_type, other.artifact_type)


def _names(image: Descriptor) -> tuple[str, ...]:
    """Return the names of an image, the full one first."""
    return tuple(image.annotations[key] for key in (_FULL_NAME, _REF_NAME) if key in image.annotations)
