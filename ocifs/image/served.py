"""The served file: the tree image, and behind it each layer's uncompressed tar stream at its base.

It is never stored; it is read as if it were. An address in it is where the tree image says that a file's bytes lie. It
knows neither names nor inodes.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from ocifs.erofs.format import layer_bases, served_size
from ocifs.layer.layer import Layer
from ocifs.reader import ReaderAt


class ServedFile:
    """A tree image and its layers, side by side; what lies between them is zero."""

    def __init__(self, tree_image: ReaderAt, layers: Sequence[Layer]) -> None:
        sizes = [layer.size for layer in layers]
        self.size = served_size(tree_image.size, sizes)
        self.layers = layers
        self._tree_image = tree_image
        self._bases = layer_bases(tree_image.size, sizes)

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`.

        Raises:
            InvalidImageError: They cannot be proven to be those that were indexed.
            OSError: A blob cannot be read.
        """
        data = self._read(size, offset, Layer.views)
        assert data is not None  # noqa: S101 - every piece was there
        return data

    def peek(self, size: int, offset: int) -> bytes | None:
        """Return what `pread` would if that needs no decoding, else None."""
        return self._read(size, offset, Layer.views_at_hand)

    def layer_at(self, address: int) -> tuple[Layer, int] | None:
        """Return the layer at `address` and the offset in its stream; None: the tree image, or past a stream's end."""
        number = bisect_right(self._bases, address) - 1
        if number < 0 or address - self._bases[number] >= self.layers[number].size:
            return None
        return self.layers[number], address - self._bases[number]

    def _read(
        self, size: int, offset: int, layer_views: Callable[[Layer, int, int], list[memoryview] | None]
    ) -> bytes | None:
        """Join what lies in each piece; None where a piece is not to be had."""
        parts: list[bytes | memoryview] = []
        for layer, place, length in self._pieces(size, offset):
            views = [self._tree_image.pread(length, place)] if layer is None else layer_views(layer, length, place)
            if views is None:
                return None
            parts += views
            if missing := length - sum(map(len, views)):
                parts.append(bytes(missing))
        return b"".join(parts)

    def _pieces(self, size: int, offset: int) -> list[tuple[Layer | None, int, int]]:
        """Cut a range at the bases: (layer or None for the tree image, offset in it, length) in turn."""
        pieces: list[tuple[Layer | None, int, int]] = []
        end = min(offset + size, self.size)
        while offset < end:
            number = bisect_right(self._bases, offset) - 1
            border = self._bases[number + 1] if number + 1 < len(self._bases) else self.size
            length = min(end, border) - offset
            if number < 0:
                pieces.append((None, offset, length))
            else:
                pieces.append((self.layers[number], offset - self._bases[number], length))
            offset += length
        return pieces
