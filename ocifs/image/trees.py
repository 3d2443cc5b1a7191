"""The tree images of a stack of layers, from the store or built: the tree as of a layer, and the changes of a layer.

The chain ID of the layers up to it names each tree, so images with the same lower layers share them. The changes of a
layer also depend on the layers below: on the files that it can remove, and on the targets of symlinks.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ocifs.errors import InvalidImageError
from ocifs.image.chain import chain_of, unverified_name
from ocifs.image.kinds import CHANGES, TREE
from ocifs.image.rootfs import Rootfs
from ocifs.layer.index import ChunkedIndex
from ocifs.layer.layer import Layer
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.store import Build, Kind, Store, StoredFile, Writer

if TYPE_CHECKING:
    from ocifs.tree.node import Node

_MAX_WARNINGS = 100

Warn = Callable[[str], None]


class Trees:
    """The trees of some layers: opened on first use, by one thread at a time, and closed together."""

    def __init__(
        self,
        layers: Sequence[Layer],
        store: Store,
        warn: Warn,
        *,
        limits: Limits = DEFAULT_LIMITS,
        strict: bool = False,
    ) -> None:
        """With `strict`, warnings become InvalidImageError, including those recorded when a tree was built.

        Raises:
            LimitError: The layers together exceed a limit.
        """
        _check_sums(layers, limits)
        self.layers = layers
        self._store = store
        self._warn = _ignore if strict else warn
        self._limits = limits
        self._strict = strict
        self.subjects: set[str] = set()
        """The names of the trees opened so far, as entries of the store."""
        self._closing = ExitStack()
        self._lock = threading.Lock()
        self._opened: dict[tuple[Kind, int], Rootfs] = {}
        self._changes: tuple[int, Iterator[Node]] = (0, iter(()))
        """The next layer in a pass over the changes, and the pass: in order, one pass serves all layers."""

    def close(self) -> None:
        """Close all opened trees."""
        self._closing.close()

    def as_of(self, count: int) -> Rootfs:
        """Return the tree of the first `count` layers."""
        with self._lock:
            return self._open(TREE, count, lambda warnings: self._merged(count, warnings))

    def changes(self, number: int) -> Rootfs:
        """Return the changes of layer `number`, as in `ocifs.tree.changes`."""
        with self._lock:
            return self._open(CHANGES, number + 1, lambda warnings: self._changed(number))

    def _open(self, kind: Kind, count: int, build_tree: "Callable[[list[str]], Node]") -> Rootfs:
        rootfs = self._opened.get((kind, count))
        if rootfs is None:
            layers = self.layers[:count]

            def build(out: Writer) -> None:
                warnings: list[str] = []
                self._compile(build_tree(warnings), layers, warnings, out)

            rootfs = self._opened[kind, count] = self._get(kind, layers, build)
        if self._strict:
            refuse_warnings("tree", *rootfs.tree.warnings)
        return rootfs

    def _get(self, kind: Kind, layers: Sequence[Layer], build: Build) -> Rootfs:
        """Return the tree, from the store or built; a stored tree that does not match the layers is replaced."""
        store = self._store if layers else Store(None)  # an empty stack has no name
        subject = str(chain_of(layers)) if layers else ""
        of_tocs = any(isinstance(layer.index, ChunkedIndex) for layer in layers)
        if of_tocs or not all(layer.verification.is_verified for layer in layers):
            # An unverified tree does not get the name of the tar streams; a stored verified tree serves it too.
            file = None if of_tocs else store.load(kind, subject)
            rootfs = None if file is None else self._open_file(file, layers)
            if rootfs is not None:
                self.subjects.add(subject)
                return rootfs
            kind, subject = kind._replace(name=f"p{kind.name}"), unverified_name(layers)
        if subject:
            self.subjects.add(subject)
        rootfs = self._open_file(store.get(kind, subject, build), layers)
        if rootfs is None:
            rootfs = self._open_file(store.get(kind, subject, build, anew=True), layers)
        assert rootfs is not None  # noqa: S101 - it was built of these layers just now
        return rootfs

    def _open_file(self, file: StoredFile, layers: Sequence[Layer]) -> Rootfs | None:
        """Return the tree in `file` if it matches the layers; else close the file."""
        try:
            rootfs = Rootfs(file, layers, self._limits)
        except InvalidImageError:
            file.close()
            return None
        self._closing.callback(file.close)
        self._closing.callback(rootfs.close)
        return rootfs

    def _compile(self, root: "Node", layers: Sequence[Layer], warnings: list[str], out: Writer) -> None:
        from ocifs.erofs.writer import compile_tree  # not needed for a warm start, nor is merging

        sizes = [layer.size for layer in layers]
        note = _recording(self._warn, warnings)

        def read(layer: int, size: int, offset: int) -> bytes:
            return layers[layer].pread(size, offset)

        out.write(compile_tree(root, sizes, read, note, warnings, self._limits))

    def _merged(self, count: int, warnings: list[str]) -> "Node":
        from ocifs.tree.merge import merge

        note = _at_most(_MAX_WARNINGS, _recording(self._warn, warnings))
        return merge((layer.index.entries() for layer in self.layers[:count]), note, self._limits)

    def _changed(self, number: int) -> "Node":
        from ocifs.tree.merge import changes

        next_layer, trees = self._changes
        if next_layer == 0 or next_layer > number:
            # Building the whole tree has reported the warnings.
            next_layer, trees = 0, changes((layer.index.entries() for layer in self.layers), _ignore, self._limits)
        for _ in range(next_layer, number):
            next(trees)
        root = next(trees)
        self._changes = (0, iter(())) if number + 1 == len(self.layers) else (number + 1, trees)
        return root


def _check_sums(layers: Sequence[Layer], limits: Limits) -> None:
    """Refuse layers that exceed a limit together, before merging. A layer listed twice counts twice."""
    for name, total, what in (
        ("image_uncompressed", sum(layer.size for layer in layers), "bytes of tar streams"),
        ("image_entries", sum(layer.index.summary.entries for layer in layers), "tar entries"),
        ("image_toc", sum(layer.index.toc_size for layer in layers), "bytes of names and attributes"),
    ):
        if total > getattr(limits, name):
            raise limits.passed(name, f"the {len(layers)} layers of the image have {total} {what}")


def refuse_warnings(what: str, count: int, first: str = "") -> None:
    """Raise InvalidImageError for `count` warnings of `what`, if there are any."""
    if count:
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise InvalidImageError(f"{what}: {first}{more}: refused by --strict")


def _ignore(message: str) -> None:
    """Discard a warning."""


def _recording(warn: Warn, warnings: list[str]) -> Warn:
    """Return `warn`, extended to append each message to `warnings`."""

    def note(message: str) -> None:
        warnings.append(message)
        warn(message)

    return note


def _at_most(count: int, warn: Warn) -> Warn:
    """Return `warn` limited to `count` messages: a hostile image may cause one for every entry."""
    left = count

    def bounded(message: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            warn(message)
        elif left == -1:
            warn("further warnings like these are omitted")

    return bounded
