"""Open an image, from a reference to a rootfs.

It reads manifest and config from the source, gets LayerIndexes and the tree from the store or builds them, and checks
that layers and config belong together. Other modules do each step; this one orders them. Every error in an image is
raised here, before anything is mounted.
"""

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from ocifs.blobs.opening import Preparing, open_cached
from ocifs.blobs.source import Source
from ocifs.errors import NotFoundError, OcifsError, counted
from ocifs.image.hot_pack import OpenedPack, load_pack, pack_name, published_name
from ocifs.image.layers import open_layers
from ocifs.image.names import note_image
from ocifs.image.rootfs import Rootfs
from ocifs.image.trees import Trees, refuse_warnings
from ocifs.indexes.lookup import FoundIndex, Key, key_of, look_up_indexes, refuse_false_tocs
from ocifs.indexes.refuted import why_refuted
from ocifs.layer.index import LayerIndex
from ocifs.layer.layer import Layer
from ocifs.options import Options
from ocifs.reader import FileSection
from ocifs.sources.naming import reference_of
from ocifs.sources.reference import Reference
from ocifs.sources.resolve import ImageLayer, ResolvedImage, resolve_image
from ocifs.spec.digest import Digest

if TYPE_CHECKING:
    from ocifs.spec.descriptor import Descriptor


class Image:
    """An opened image: a context manager that owns its files."""

    def __init__(
        self,
        source: Source,
        resolved: ResolvedImage,
        rootfs: Rootfs,
        trees: Trees,
        closing: ExitStack,
        opened: tuple[Reference, Options],
    ) -> None:
        self.source = source
        """Reads the image's documents and blobs."""
        self.resolved = resolved
        """Name, digest, manifest, config, and the opened layers."""
        self.rootfs = rootfs
        """The merged tree; with `Options.changes_only`, the changes of the last layer."""
        self.reference, self.options = opened
        """What `open` was called with."""
        self._trees = trees
        self._closing = closing
        self._published_pack: Descriptor | None = None

    @classmethod
    def open(cls, reference: str | os.PathLike[str] | Reference, options: Options | None = None) -> Self:
        """Open an image by reference, such as `./debian:latest` or `oci-archive:image.tar`.

        Raises:
            NotFoundError: The reference names nothing, or more than one image; or the layer does not exist.
            InvalidImageError: The image does not match its digests, or violates the specification; or `options.strict`
                is set and there are warnings.
            UnsupportedError, LimitError: It contains something that ocifs does not handle, or too much.
            RegistryError: Its registry cannot be reached, or refuses access.
        """
        with find_image(reference, options) as found:
            return cls.of(found)

    @classmethod
    def of(cls, found: "FoundImage") -> Self:
        """Open the layers and the merged tree; the image owns the files of `found` from now on. Raises as `open`."""
        source, resolved, known, (reference, options) = found.source, found.resolved, found.known, found.found
        with found.closing.pop_all() as stack:
            layers = open_layers(source, resolved, known, options, stack)
            if options.toc == "verify":
                refuse_false_tocs(source, resolved, layers, options)
            trees = Trees(layers, options.store, options.warn, limits=options.limits, strict=options.strict)
            stack.callback(trees.close)
            if options.strict:
                for layer, of_image in zip(layers, resolved.layers, strict=True):
                    warnings = layer.index.warnings(of_image.compression)
                    refuse_warnings(f"layer {of_image.descriptor.digest}", len(warnings), *warnings[:1])
                trees.as_of(len(layers))
            rootfs = trees.changes(len(layers) - 1) if options.changes_only and layers else trees.as_of(len(layers))
            made = {*trees.subjects, pack_name(layers).subject} if layers else trees.subjects
            note_image(options.store, reference, resolved, made)
            image = cls(source, resolved, rootfs, trees, stack.pop_all(), (reference, options))
            image._published_pack = next((each.pack for each in known.values() if each.pack is not None), None)
            return image

    @property
    def digest(self) -> Digest:
        """Digest of the manifest."""
        return self.resolved.digest

    @property
    def layers(self) -> list[Layer]:
        """The layers' tar streams, the base first."""
        return list(self.rootfs.served.layers)

    @property
    def indexes(self) -> list[LayerIndex]:
        """The LayerIndex of each layer, the base first."""
        return [layer.index for layer in self.layers]

    def index_of(self, layer: int) -> LayerIndex:
        """Return the LayerIndex of a layer.

        Raises:
            NotFoundError: There is no such layer.
        """
        return self.indexes[_number(layer, self.resolved)]

    def as_of(self, layer: int) -> Rootfs:
        """Return the merged tree of the layers up to `layer`; the image closes it.

        Raises:
            NotFoundError: There is no such layer.
        """
        return self._trees.as_of(_number(layer, self.resolved) + 1)

    def changes(self, layer: int) -> Rootfs:
        """Return the changes of `layer` as a tree with whiteouts (`ocifs.tree.changes`); the image closes it.

        The changes of several layers cost least when requested in order, the base first.

        Raises:
            NotFoundError: There is no such layer.
        """
        return self._trees.changes(_number(layer, self.resolved))

    def hot_pack(self, limit: int) -> OpenedPack | None:
        """Return the hot pack of the image's layers, from the cache, or a published one; the image closes it.

        A published pack is of `limit` bytes at most, and counts as unverified, like the index beside it.
        """
        if (found := load_pack(self.options.store, self.layers)) is not None:
            name, file = found
            self._closing.callback(file.close)
            return OpenedPack(file, name.is_verified)
        published = self._published_pack
        if published is None or published.size > limit:
            return None
        if (reason := why_refuted(self.options.store, published_name(published.digest))) is not None:
            self.options.warn(f"hot pack {published.digest} is not used: it is refuted: {reason}")
            return None
        from ocifs.indexes.artifact import published_head

        try:
            head = published_head(published)
            blob = self.source.open_lazily(published)
        except OcifsError:  # the index serves all the same
            return None
        if not isinstance(blob, FileSection):
            return None
        return OpenedPack(blob, verified=False, head=head, digest=str(published.digest))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.rootfs.closed

    def close(self) -> None:
        """Close all files. Nothing of the image can be read afterwards; no other thread may be reading it."""
        self._closing.close()


class FoundImage:
    """An image in its source, before any layer is read: a context manager that owns its files until `Image.of`."""

    def __init__(
        self,
        source: Source,
        resolved: ResolvedImage,
        known: dict[Key, FoundIndex],
        closing: ExitStack,
        found: tuple[Reference, Options],
    ) -> None:
        self.source = source
        self.resolved = resolved
        """Name, digest, manifest, config and layers; no more layers than the reference and `Options.layer` allow."""
        self.known = known
        """The indexes that do not have to be built."""
        self.closing = closing
        self.found = found
        """The arguments of `find_image`."""

    @property
    def unindexed(self) -> list[ImageLayer]:
        """The layers that `Image.of` reads from front to end, because no index of them is known."""
        return [layer for layer in self.resolved.layers if key_of(layer) not in self.known]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.close()


def find_image(reference: str | os.PathLike[str] | Reference, options: Options | None = None) -> FoundImage:
    """Read manifest and config of an image, and look up the indexes of its layers. Raises as `Image.open`."""
    options = options or Options()
    if not isinstance(reference, Reference):
        reference = reference_of(os.fspath(reference))
    with ExitStack() as stack:
        source = open_source(reference, options)
        stack.callback(source.close)
        resolved = _up_to(resolve_image(source, reference, options.platform), options.layer)
        known = look_up_indexes(source, resolved, options, stack, by_digest=reference.digest is not None)
        return FoundImage(source, resolved, known, stack.pop_all(), (reference, options))


def open_image(reference: str | os.PathLike[str] | Reference, options: Options | None = None) -> Image:
    """Open an image by reference; see `Image.open`."""
    return Image.open(reference, options)


def open_source(reference: Reference, options: Options) -> Source:
    """Open the source of an image, a registry with the store in front of it. Raises as `open_cached`."""
    return open_cached(
        reference,
        options.store,
        options.access,
        options.limits,
        follow_links=options.follow_links,
        preparing=Preparing(
            options.downloading,
            options.progress,
            low_memory=options.low_memory,
            warn=options.warn,
            prefer_kept=options.prefer_kept,
        ),
    )


def _up_to(resolved: ResolvedImage, layer: int | None) -> ResolvedImage:
    return resolved if layer is None else resolved._replace(layers=resolved.layers[: _number(layer, resolved) + 1])


def _number(layer: int, resolved: ResolvedImage) -> int:
    """Return the position of a layer; a negative number counts from the end."""
    count = len(resolved.layers)
    if not -count <= layer < count:
        valid = f"they are 0 to {count - 1}" if count else "there are none"
        raise NotFoundError(f"no layer {layer} among the {counted(count, 'layer')} of {resolved.name}: {valid}")
    return layer % count
