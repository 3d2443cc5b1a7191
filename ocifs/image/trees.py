"""The tree images of a stack of layers: the tree as of a layer, and what one layer changes; from the store, or made.

Each is named by the chain ID of the layers up to it, so images that begin with the same layers share them. What a layer
changes depends on those below as well: on what is there to remove, and on where symlinks lead.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from ocifs.errors import InvalidImageError
from ocifs.image.rootfs import Rootfs
from ocifs.layer.layer import Layer
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.spec.digest import ChainID, DiffID, Digest, chain_id
from ocifs.store import Build, Kind, Store, StoredFile, Writer

if TYPE_CHECKING:
    from ocifs.tree.node import Node

TREE = Kind("tree", 4, sealed=True)
CHANGES = Kind("changes", 3, sealed=True)

_MAX_WARNINGS = 100

Warn = Callable[[str], None]


class Trees:
    """The trees of some layers, opened when they are asked for, and all closed together."""

    def __init__(
        self,
        layers: Sequence[Layer],
        store: Store,
        warn: Warn,
        *,
        limits: Limits = DEFAULT_LIMITS,
        strict: bool = False,
    ) -> None:
        """With `strict`, a tree that `warn` was ever told of is an InvalidImageError instead.

        Raises:
            LimitError: The layers are too much together.
        """
        _check_sums(layers, limits)
        self.layers = layers
        self._store = store
        self._warn = _ignore if strict else warn
        self._limits = limits
        self._strict = strict
        self._closing = ExitStack()
        self._opened: dict[tuple[Kind, int], Rootfs] = {}
        self._changes: tuple[int, Iterator[Node]] = (0, iter(()))
        """The layer that comes next in a pass over the changes, and the pass: asked for in order, one does for all."""

    def close(self) -> None:
        """Close what was opened."""
        self._closing.close()

    def as_of(self, count: int) -> Rootfs:
        """Return the tree of the first `count` layers."""
        return self._open(TREE, count, lambda odd: self._merged(count, odd))

    def changes(self, number: int) -> Rootfs:
        """Return what layer `number` changes, as `ocifs.tree.changes` has it."""
        return self._open(CHANGES, number + 1, lambda odd: self._changed(number))

    def _open(self, kind: Kind, count: int, make: "Callable[[list[str]], Node]") -> Rootfs:
        rootfs = self._opened.get((kind, count))
        if rootfs is None:
            layers = self.layers[:count]

            def build(out: Writer) -> None:
                odd: list[str] = []
                self._compile(make(odd), layers, odd, out)

            rootfs = self._opened[kind, count] = self._found(kind, layers, build)
        if self._strict:
            refuse_warnings("tree", *rootfs.tree.warnings)
        return rootfs

    def _found(self, kind: Kind, layers: Sequence[Layer], build: Build) -> Rootfs:
        """Return the tree, from the store or built; one that is stored under its name but does not fit is replaced."""
        store = self._store if layers else Store(None)  # a stack of no layers has no name
        subject = str(chain_of(layers)) if layers else ""
        of_tocs = any(layer.index.summary.toc for layer in layers)
        if of_tocs or any(layer.claimed for layer in layers):
            # Not under the name of the tar streams, unless it was made of them: nothing has proven yet what these are.
            file = None if of_tocs else store.load(kind, subject)
            rootfs = None if file is None else self._own(file, layers)
            if rootfs is not None:
                return rootfs
            kind, subject = kind._replace(name=f"p{kind.name}"), _claimed(layers)
        rootfs = self._own(store.get(kind, subject, build), layers)
        if rootfs is None:
            rootfs = self._own(store.get(kind, subject, build, anew=True), layers)
        assert rootfs is not None  # noqa: S101 - it was built of these layers just now
        return rootfs

    def _own(self, file: StoredFile, layers: Sequence[Layer]) -> Rootfs | None:
        """Return the tree in `file` if it is one of these layers; else close the file."""
        try:
            rootfs = Rootfs(file, layers, self._limits)
        except InvalidImageError:
            file.close()
            return None
        self._closing.callback(file.close)
        self._closing.callback(rootfs.close)
        return rootfs

    def _compile(self, root: "Node", layers: Sequence[Layer], odd: list[str], out: Writer) -> None:
        from ocifs.erofs.writer import compile_tree  # a warm start has no use for it, nor for merging

        sizes = [layer.size for layer in layers]
        note = _noted(self._warn, odd)

        def read(layer: int, size: int, offset: int) -> bytes:
            return layers[layer].pread(size, offset)

        out.write(compile_tree(root, sizes, read, note, odd, self._limits))

    def _merged(self, count: int, odd: list[str]) -> "Node":
        from ocifs.tree.merge import merge

        note = _at_most(_MAX_WARNINGS, _noted(self._warn, odd))
        return merge((layer.index.entries() for layer in self.layers[:count]), note, self._limits)

    def _changed(self, number: int) -> "Node":
        from ocifs.tree.merge import changes

        following, trees = self._changes
        if following == 0 or following > number:
            # What is odd was told when the whole tree was made.
            following, trees = 0, changes((layer.index.entries() for layer in self.layers), _ignore, self._limits)
        for _ in range(following, number):
            next(trees)
        root = next(trees)
        self._changes = (0, iter(())) if number + 1 == len(self.layers) else (number + 1, trees)
        return root


def _check_sums(layers: Sequence[Layer], limits: Limits) -> None:
    """Refuse layers that exceed a limit together, before they are merged. A layer listed twice is merged twice."""
    for name, total, what in (
        ("image_uncompressed", sum(layer.size for layer in layers), "bytes of tar streams"),
        ("image_entries", sum(layer.index.summary.entries for layer in layers), "tar entries"),
        ("image_toc", sum(layer.index.toc_size for layer in layers), "bytes of names and attributes"),
    ):
        if total > getattr(limits, name):
            raise limits.passed(name, f"the {len(layers)} layers of the image have {total} {what}")


def chain_of(layers: Sequence[Layer]) -> ChainID:
    """Return the name of one or more layers by what their indexes say, however the image names their streams."""
    return chain_id([DiffID(Digest(layer.index.summary.diff_id)) for layer in layers])


def _claimed(layers: Sequence[Layer]) -> str:
    """Return a name for layers of which some are not proven: of the blobs, and of who says what is in them."""
    claims = [
        (layer.index.summary.blob_digest, layer.published if layer.claimed else None, layer.index.summary.toc)
        for layer in layers
    ]
    return Digest.of(msgspec.json.encode(claims))


def refuse_warnings(what: str, count: int, first: str = "") -> None:
    """Raise InvalidImageError for `count` warnings of `what`, if there are any."""
    if count:
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise InvalidImageError(f"{what}: {first}{more}: refused by --strict")


def _ignore(message: str) -> None:
    """Take no notice."""


def _noted(warn: Warn, odd: list[str]) -> Warn:
    """Return `warn`, with what it is told added to `odd`."""

    def note(message: str) -> None:
        odd.append(message)
        warn(message)

    return note


def _at_most(count: int, warn: Warn) -> Warn:
    """Return `warn` for `count` messages: a hostile image has something odd in every entry."""
    left = count

    def bounded(message: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            warn(message)
        elif left == -1:
            warn("more warnings like these are left out")

    return bounded
