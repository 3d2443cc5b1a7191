"""An image of a Docker engine: streamed once into the cache, under its ID.

The ID is the digest of the image's config, or of its manifest or index if the engine keeps images in containerd. So an
archive belongs to an ID if one of these digests matches. Once it is in the cache, a command needs one small request.
Only resolving the image starts the stream, so listing tags is cheap.
"""

import os
from collections.abc import Iterator
from functools import cached_property

from ocifs.blobs.kept import Keeping, keep
from ocifs.errors import InvalidImageError, NotFoundError
from ocifs.reader import BlobReader, FileReader
from ocifs.sources.archive import Archive
from ocifs.sources.docker_daemon import EngineAddress, find_engine
from ocifs.sources.reference import Reference
from ocifs.sources.resolve import manifests_of, open_archive
from ocifs.sources.source import LocalSource, NamedImage
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import shown
from ocifs.spec.manifest import Manifest, parse_document


class EngineImageSource(LocalSource):
    """The image that a name stands for at an engine."""

    def __init__(self, engine: EngineAddress, image: str, keeping: Keeping) -> None:
        super().__init__(f"image {shown(image)} of the Docker engine", keeping.limits)
        self._engine = engine
        self._image = image
        self._keeping = keeping

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return the image; stream it into the cache first if it is not there."""
        return self._saved.resolve(reference)

    def images(self) -> tuple[NamedImage, ...]:
        """Return the image."""
        return self._saved.images()

    def names(self) -> list[tuple[str, ...]]:
        """Return the names of the image in its archive."""
        return self._saved.names()

    def tags(self) -> list[str]:
        """Return the tags of all images in the repository of the name. Raises NotFoundError if there are none."""
        repository = _repository(self._image)
        names = [name for each in self._engine.images(repository) for name in each.repo_tags or ()]
        found = [name.rpartition(":") for name in names]
        tags = {tag for own, _, tag in found if own == repository or own.endswith(f"/{repository}")}
        if not tags:
            raise NotFoundError(f"the Docker engine has no image in {shown(repository)}")
        return sorted(tags)

    def open(self, descriptor: Descriptor) -> BlobReader:
        """Return a blob of the image."""
        return self._saved.open(descriptor)

    def close(self) -> None:
        """Close the archive."""
        if "_saved" in self.__dict__:
            self._saved.close()

    @cached_property
    def _saved(self) -> LocalSource:
        """The archive of the image, from the cache or from the engine."""
        image = self._engine.inspect(self._image)
        image_id = Digest(image.id)
        keeping = self._keeping

        def arriving() -> Iterator[bytes]:
            done = 0
            for piece in self._engine.save(image):
                done += len(piece)
                keeping.downloading(image_id, done, max(image.size, done))
                yield piece

        def check(file: FileReader) -> None:
            # A descriptor of its own, because the archive closes it.
            whole = FileReader(os.dup(file.fd), file.offset, file.size)
            source = open_archive(Archive.within(whole, self.name, keeping.limits), None, keeping.limits)
            try:
                if not _is_of(source, image_id):
                    raise InvalidImageError(
                        f"the engine at {self._engine} sent another image than {image_id}: try again"
                    )
            finally:
                source.close()

        file = keep(keeping, image_id, arriving, self.name, check)
        archive = Archive.within(file, self.name, keeping.limits, keeping.decompress)
        return open_archive(archive, None, keeping.limits)


def open_engine_image(reference: Reference, keeping: Keeping) -> EngineImageSource:
    """Return the image of an engine that a reference names; raises as `find_engine`."""
    return EngineImageSource(find_engine(), reference.path, keeping)


def _is_of(source: LocalSource, image_id: Digest) -> bool:
    """Return whether an archive holds the image of an ID; raises OcifsError if it is damaged."""
    for image in source.images():
        if image.descriptor.digest == image_id:
            return True
        for descriptor in manifests_of(source, image.descriptor):
            if descriptor.digest == image_id or _config_of(source, descriptor) == image_id:
                return True
    return False


def _config_of(source: LocalSource, descriptor: Descriptor) -> Digest | None:
    """Return the digest of a manifest's config; None if the archive lacks the manifest, as for other platforms."""
    try:
        data = source.document(descriptor)
    except NotFoundError:
        return None
    manifest = parse_document(data, f"manifest {descriptor.digest}", descriptor.media_type)
    return manifest.config.digest if isinstance(manifest, Manifest) else None


def _repository(image: str) -> str:
    """Return a name without its tag or digest."""
    name = image.partition("@")[0]
    before, colon, tag = name.rpartition(":")
    return before if colon and "/" not in tag else name
