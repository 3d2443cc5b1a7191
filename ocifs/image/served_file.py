"""The served file: the tree image, followed by each layer's uncompressed tar stream at its base.

It is virtual, never stored. The tree image gives the addresses of files' bytes in it. The tree image is in memory, so
reading it never waits for a disk. This module knows neither names nor inodes.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ocifs.erofs.format import layer_at, layer_bases, served_size
from ocifs.layer.layer import Layer
from ocifs.reader import BlobReader, ReaderAt

if TYPE_CHECKING:
    from ocifs.hotpack.pack import HotPack
    from ocifs.hotpack.recording import Recording


class ServedFile:
    """A tree image and its layers in one address space; gaps read as zeros."""

    def __init__(self, tree_image: ReaderAt, layers: Sequence[Layer]) -> None:
        sizes = [layer.size for layer in layers]
        self.size = served_size(tree_image.size, sizes)
        self.layers = layers
        self.pack: HotPack | None = None
        """Holds the decoded bytes of first reads."""
        self.pack_file: BlobReader | None = None
        """The file of a pack; a `LazyBlob`, if it has to be fetched."""
        self.recording: Recording | None = None
        """Notes the reads of an engine."""
        self.is_saving = False
        """Whether a recording is being saved."""
        self.is_fetching_pack = False
        """Whether a published pack is arriving."""
        self._tree_image = tree_image
        self.bases = layer_bases(tree_image.size, sizes)
        """The address of each layer."""

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`.

        Raises:
            InvalidImageError: A span fails its verification.
            OSError: A blob cannot be read.
        """
        return b"".join(self.views(size, offset))

    def views(self, size: int, offset: int) -> list[memoryview]:
        """Return the same as `pread` without copying, as views of the decoded spans."""
        views = self._views(size, offset, self._layer_views)
        assert views is not None  # noqa: S101 - every piece was there
        return views

    def views_at_hand(self, size: int, offset: int) -> list[memoryview] | None:
        """Return the same as `views` if that needs neither decoding nor a disk, else None."""
        return self._views(size, offset, self._layer_views_at_hand)

    def is_hot(self, size: int, address: int) -> bool | None:
        """Whether the pack has the bytes of a read; None: it is not known yet."""
        if self.pack is None or (found := self.layer_at(address)) is None:
            return False
        layer, offset = found
        return self.pack.has(layer.number, min(size, layer.size - offset), offset)

    def layer_at(self, address: int) -> tuple[Layer, int] | None:
        """Return the layer at `address` and the offset in its stream; None: the tree image, or past a stream's end."""
        number, offset = layer_at(self.bases, address) or (None, 0)
        if number is None or offset >= self.layers[number].size:
            return None
        return self.layers[number], offset

    def _layer_views(self, layer: Layer, size: int, offset: int) -> list[memoryview]:
        if self.pack is not None and layer.verification.refuted is None:
            views = self.pack.views(layer.number, min(size, layer.size - offset), offset)
            if views is not None:
                return views
        return layer.views(size, offset)

    def _layer_views_at_hand(self, layer: Layer, size: int, offset: int) -> list[memoryview] | None:
        if self.pack is not None and layer.verification.refuted is None:
            views = self.pack.views_at_hand(layer.number, min(size, layer.size - offset), offset)
            if views is not None:
                return views
        return layer.views_at_hand(size, offset)

    def _views(
        self,
        size: int,
        offset: int,
        layer_views: Callable[[Layer, int, int], list[memoryview] | None],
    ) -> list[memoryview] | None:
        """Return the views of each piece, or None if a piece is not available."""
        views: list[memoryview] = []
        for layer, start, length in self._pieces(size, offset):
            parts: list[memoryview] | None
            if layer is None:
                parts = [memoryview(self._tree_image.pread(length, start))]
            else:
                parts = layer_views(layer, length, start)
            if parts is None:
                return None
            views += parts
            if missing := length - sum(map(len, parts)):
                views.append(memoryview(bytes(missing)))
        return views

    def _pieces(self, size: int, offset: int) -> list[tuple[Layer | None, int, int]]:
        """Cut a range at the bases: [(layer or None for the tree image, offset in it, length)]."""
        pieces: list[tuple[Layer | None, int, int]] = []
        boundaries = [*self.bases, self.size]
        end = min(offset + size, self.size)
        while offset < end:
            number, start = layer_at(self.bases, offset) or (-1, offset)
            length = min(end, boundaries[number + 1]) - offset
            pieces.append((self.layers[number] if number >= 0 else None, start, length))
            offset += length
        return pieces
