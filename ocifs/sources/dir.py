"""The `dir:` layout of skopeo and podman: one image as plain files, `manifest.json` and its blobs.

Source: containers-transports(5), "dir", and what `skopeo copy` writes. A blob's file is named by the hex digits of its
sha256, or `ALGORITHM-HEX`. `skopeo copy --all` writes an index to `manifest.json`, and each manifest in it to
`HEX.manifest.json`. The directory has no tags. It does not know what the signatures next to the blobs mean.
"""

import re

from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError, printable_path
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.reader import FileReader
from ocifs.sources.directory import Directory
from ocifs.sources.reference import Reference
from ocifs.sources.source import LocalSource, NamedImage, read_metadata
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import CANONICAL, Digest
from ocifs.spec.document import shown
from ocifs.spec.manifest import parse_document
from ocifs.spec.mediatypes import INDEXES, MANIFESTS

MANIFEST = "manifest.json"
VERSION = "version"
_VERSION = re.compile(rb"Directory Transport Version: 1\.\d+\s*")


class DirImage(LocalSource):
    """The image, or the index of images, in one directory."""

    def __init__(self, folder: Directory, root: Descriptor, manifest: FileReader, limits: Limits) -> None:
        super().__init__(folder.name, limits)
        self._folder = folder
        self._root = root
        self._blobs: dict[Digest, FileReader] = {root.digest: manifest}

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return the image; a digest may also name a manifest of its index, and `@0` is the image."""
        if reference.digest not in (None, self._root.digest):
            return (self._named_by_digest(reference.digest),)
        if reference.tag is not None:
            raise NotFoundError(
                f"{self.name} has no image '{printable_path(reference.tag)}': it holds one image, without a tag: "
                "leave the tag out"
            )
        if reference.position:
            raise NotFoundError(f"{self.name} has no image @{reference.position}: it holds one image")
        return (self._root,)

    def pinned(self, reference: Reference, digest: Digest) -> str:
        """Return the absolute path with the digest."""
        return reference.absolute(digest)

    def images(self) -> tuple[NamedImage, ...]:
        """Return the image, which has no name."""
        return (NamedImage((), self._root),)

    def names(self) -> list[tuple[str, ...]]:
        """Return no name."""
        return [()]

    def open(self, descriptor: Descriptor) -> FileReader:
        """Return the file named by the digest."""
        blob = self._blobs.get(descriptor.digest)
        if blob is None:
            blob = self._blobs[descriptor.digest] = self._open(descriptor)
        if blob.size != descriptor.size:
            raise InvalidImageError(
                f"blob {descriptor.digest} in {self.name} has {blob.size} bytes, its descriptor says "
                f"{descriptor.size}: copy the image again"
            )
        return blob

    def close(self) -> None:
        """Close the directory and all blobs."""
        self._folder.close()

    def _open(self, descriptor: Descriptor) -> FileReader:
        is_manifest = descriptor.media_type in INDEXES | MANIFESTS
        try:
            return self._folder.open(_file_of(descriptor.digest) + (f".{MANIFEST}" if is_manifest else ""))
        except NotFoundError as error:
            hint = "copy the image again, with `skopeo copy --all`" if is_manifest else "copy the image again"
            raise NotFoundError(f"cannot read blob {descriptor.digest}: {error}; {hint}") from error

    def _named_by_digest(self, digest: Digest) -> Descriptor:
        try:
            blob = self._folder.open(f"{_file_of(digest)}.{MANIFEST}")
        except NotFoundError as error:
            raise NotFoundError(f"no image {digest} in {self.name}: it holds {self._root.digest}") from error
        name = f"manifest {digest} in {self.name}"
        document = parse_document(read_metadata(blob, name, self.limits), name)
        self._blobs[digest] = blob
        return Descriptor(media_type=document.media_type, digest=digest, size=blob.size)


def open_dir(folder: Directory, limits: Limits = DEFAULT_LIMITS) -> DirImage:
    """Return the image in `folder`, which it closes.

    Raises:
        InvalidImageError: It is not such a directory, or its manifest is malformed.
        UnsupportedError: Its layout has another version.
    """
    name = f"{folder.name}/{MANIFEST}"
    try:
        manifest = folder.open(MANIFEST)
    except NotFoundError as error:
        raise InvalidImageError(f"{folder.name} was not written by `skopeo copy … dir:DIR`: {error}") from error
    _check_version(folder, limits)
    data = read_metadata(manifest, name, limits)
    document = parse_document(data, name)
    root = Descriptor(media_type=document.media_type, digest=Digest.of(data), size=len(data))
    return DirImage(folder, root, manifest, limits)


def _check_version(folder: Directory, limits: Limits) -> None:
    """Check the version if it is stated: old programs wrote none."""
    try:
        data = read_metadata(folder.open(VERSION), f"{folder.name}/{VERSION}", limits)
    except NotFoundError:
        return
    if not _VERSION.fullmatch(data):
        raise UnsupportedError(
            f"{folder.name}/{VERSION} states '{shown(data[:80].decode('latin-1'))}'; ocifs reads versions 1.x"
        )


def _file_of(digest: Digest) -> str:
    return digest.hex if digest.algorithm == CANONICAL else f"{digest.algorithm}-{digest.hex}"
