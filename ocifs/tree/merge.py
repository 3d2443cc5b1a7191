"""Layers applied one after the other, in manifest order, to one tree.

The rule is OCI image-spec layer.md, "Applying Changesets": a whiteout removes what lower layers gave and nothing of
its own layer, wherever it stands in it. Paths are resolved inside the tree, symlinks included, when an entry is
applied; nothing outside exists. Where the specification is silent the result is umoci's. It knows nothing of how the
tree is stored.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from ocifs.errors import InvalidImageError, OcifsError, printable
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.toc import BLOCK, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Entry
from ocifs.tree.changes import Place, changed_tree
from ocifs.tree.node import Extent, Node
from ocifs.tree.whiteout import Mark, classify

_TYPES = {
    REGULAR: stat.S_IFREG,
    SYMLINK: stat.S_IFLNK,
    CHARACTER: stat.S_IFCHR,
    BLOCK: stat.S_IFBLK,
    DIRECTORY: stat.S_IFDIR,
    FIFO: stat.S_IFIFO,
}
_LEADING = (SYMLINK, HARDLINK)
"""Kinds of entries that may be, or become, a way to somewhere else."""
_MAX_LINKS = 40
"""Symlinks followed in one path, as in Linux."""
_HIDDEN = (b"trusted.overlay.", b"user.overlay.", b"security.selinux")
"""Extended attributes that speak of another mount: overlayfs would believe them, SELinux has its own policy."""


def merge(layers: Iterable[Iterable[Entry]], warn: Callable[[str], None], limits: Limits = DEFAULT_LIMITS) -> Node:
    """Return the root of the tree that `layers`, base layer first, make together.

    A directory no layer describes is 0755 root:root, mtime 0, as is the root.

    Raises:
        InvalidImageError: A whiteout names no file, a hard link has no target, symlinks loop, or the root is not a
            directory.
        LimitError: Entries and the directories that they imply are too many, or paths lead through too many symlinks.
    """
    root = Node(stat.S_IFDIR | 0o755)
    for _ in _apply(root, layers, warn, limits):
        pass
    return root


def changes(
    layers: Iterable[Iterable[Entry]], warn: Callable[[str], None], limits: Limits = DEFAULT_LIMITS
) -> Iterator[Node]:
    """Give for each of `layers` in turn, base layer first, the tree of what it changes (`ocifs.tree.changes`).

    Raises what `merge` does, when it comes to the layer.
    """
    for layer in _apply(Node(stat.S_IFDIR | 0o755), layers, warn, limits, note_given=True):
        yield changed_tree(layer.root, layer.number, layer.given or [], layer.removed, layer.cut)


def _apply(
    root: Node,
    layers: Iterable[Iterable[Entry]],
    warn: Callable[[str], None],
    limits: Limits,
    *,
    note_given: bool = False,
) -> "Iterator[_Layer]":
    account = _Account(limits)
    for number, entries in enumerate(layers):
        layer = _Layer(root, number, warn, account)
        layer.given = [] if note_given else None
        for entry in entries:
            try:
                layer.apply(entry)
            except OcifsError as error:
                raise type(error)(f"layer {number}, entry '{printable(entry.path)}': {error}") from None
        yield layer


class _Account:
    """What was spent on all layers so far."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries = 0
        self._steps = 0

    def add_entry(self) -> None:
        """Count an entry, or a directory that one implies."""
        self._entries += 1
        if self._entries > self._limits.image_entries:
            most = self._limits.image_entries
            raise self._limits.passed("image_entries", f"more than {most} tar entries and directories that they imply")

    def add_steps(self, count: int) -> None:
        """Count names taken from the target of a symlink."""
        self._steps += count
        if self._steps > self._limits.symlink_steps:
            raise self._limits.passed("symlink_steps", f"{self._steps} steps through the image's symlinks")


class _Layer:
    """One layer while it is applied: what of the tree below `root` is its own."""

    def __init__(self, root: Node, number: int, warn: Callable[[str], None], account: _Account) -> None:
        self.root = root
        self.number = number
        self.warn = warn
        self.account = account
        self.further: dict[Node, dict[bytes, bool]] = {}
        """By directory, the names of the layer's that the number of their node does not tell: hard links (True), and
        directories of lower layers above what it gave (False)."""
        self.implied: set[Node] = set()
        """Directories that it made without an entry for them."""
        self.given: list[Place] | None = None
        """Names that its entries gave; None if nobody asks for them."""
        self.opaque: set[Node] = set()
        """Directories in which, at any depth, nothing lower is left: no whiteout has work there again."""
        self.removed: list[Place] = []
        """Lower names that went, with all below them; this layer may have given them anew, before or after."""
        self.cut: list[Node] = []
        """Directories that were there below and were made opaque."""
        self.last: tuple[list[bytes], Node | None] = ([], None)
        """The path below which an entry was put last, and the directory there; None once it may lead elsewhere."""

    def apply(self, entry: Entry) -> None:
        """Apply one entry."""
        self.account.add_entry()
        path, inside = clean_path(entry.path)
        if not inside:
            self._warn(entry, "leads above the root; taken as /" + printable(b"/".join(path)))
        mark, removed = classify(path)
        if mark is Mark.ORDINARY:
            self._add(path, entry)
        elif mark is Mark.LITERAL:
            self._warn(entry, "lies below a directory with a whiteout's name; kept")
            self._add(path, entry)
        elif mark is Mark.DROPPED:
            self._warn(entry, "is AUFS metadata; dropped")
        else:
            if entry.size or entry.kind == DIRECTORY:
                self._warn(entry, "is a whiteout and should be an empty file")
            self.last = [], None
            directory = self._resolve(path[:-1])
            if directory is not None and mark is Mark.OPAQUE:
                self._cut(directory)
            elif directory is not None:
                self._whiteout(directory, removed)

    def _warn(self, entry: Entry, what: str) -> None:
        self.warn(f"layer {self.number}, entry '{printable(entry.path)}' {what}")

    def _whiteout(self, directory: Node, name: bytes) -> None:
        child = directory.names().get(name)
        if child is None:
            return
        if self._given(directory, name, child) is None:
            del directory.names()[name]
            self.removed.append((directory, name))
        elif child.is_dir:
            self._cut(child)

    def _cut(self, directory: Node) -> None:
        if directory not in self.opaque:
            self.cut.append(directory)
            self._remove_lower([directory])

    def _remove_lower(self, todo: list[Node]) -> None:
        """Remove from the directories `todo`, at all depths, what this layer did not give."""
        while todo:
            directory = todo.pop()
            if directory in self.opaque:
                continue
            self.opaque.add(directory)
            children = directory.names()
            for name, child in list(children.items()):
                if self._given(directory, name, child) is None:
                    del children[name]
                elif child.is_dir:
                    todo.append(child)

    def _add(self, path: list[bytes], entry: Entry) -> None:
        if not path:
            if entry.kind != DIRECTORY:
                raise InvalidImageError("the root must be a directory")
            self._describe(self.root, entry)
            return
        name = path.pop()
        known, directory = self.last
        if directory is None or path != known:
            directory = self._make_directories(path, entry)
            self.last = path, directory
        children = directory.names()
        child = children.get(name)
        self._note_loss(entry, directory, name)
        if entry.kind != DIRECTORY and child is not None and child.is_dir:
            self.removed.append((directory, name))
        if entry.kind in _LEADING or (child is not None and not (child.is_dir and entry.kind == DIRECTORY)):
            self.last = [], None
        if entry.kind == HARDLINK:
            children.pop(name, None)
            children[name] = self._link_target(entry.linkname, (directory, name))
        elif entry.kind == DIRECTORY:
            if child is None or not child.is_dir:
                child = self._make_directory(directory, name)
            self._describe(child, entry)
        else:
            children[name] = self._describe(Node(_TYPES[entry.kind]), entry)
        self._mark(directory, name, children[name])

    def _note_loss(self, entry: Entry, directory: Node, name: bytes) -> None:
        """Warn of an entry that takes from the tree what its own layer has put there."""
        child = directory.names().get(name)
        given = None if child is None else self._given(directory, name, child)
        if given:
            self._warn(entry, "is given twice; the later one counts")
        elif given is not None and entry.kind != DIRECTORY and child is not None and child.is_dir:
            self._warn(entry, "replaces a directory in which this layer has put files; they are gone")

    def _given(self, directory: Node, name: bytes, child: Node) -> bool | None:
        """Return whether an entry of this layer gave just that name; None if it is all of lower layers.

        A node of this layer's number is under names that this layer gave, so they need no place in memory.
        """
        if child.layer == self.number and child not in self.implied:
            return True
        names = self.further.get(directory)
        otherwise = False if child in self.implied else None
        return names.get(name, otherwise) if names else otherwise

    def _mark(self, directory: Node, name: bytes, child: Node) -> None:
        """Note that this layer gave `child` the name `name` in `directory`, and so the directory and all above."""
        if self.given is not None:
            self.given.append((directory, name))
        self.implied.discard(child)
        if child.layer != self.number:
            self.further.setdefault(directory, {})[name] = True
        self._mark_above(directory)

    def _mark_above(self, directory: Node) -> None:
        """Note that this layer gave something in `directory`."""
        while (above := directory.parent) is not None and self._given(above, directory.name, directory) is None:
            self.further.setdefault(above, {})[directory.name] = False
            directory = above

    def _link_target(self, linkname: bytes, itself: Place) -> Node:
        """Return the node that the hard link at `itself` names, as the tree is now; a symlink there is not followed."""
        path, _ = clean_path(linkname)
        directory = self._resolve(path[:-1]) if path else None
        if directory and (directory, path[-1]) == itself:
            raise InvalidImageError("a hard link to itself")
        node = directory.names().get(path[-1]) if directory else None
        if node is None:
            raise InvalidImageError(
                f"hard link to '{printable(linkname)}': no such file in lower layers, or before it in its own"
            )
        if node.is_dir:
            raise InvalidImageError(f"hard link to '{printable(linkname)}', which is a directory")
        return node

    def _describe(self, node: Node, entry: Entry) -> Node:
        """Give `node` the attributes of `entry`, of its type."""
        permissions = 0o777 if entry.kind == SYMLINK else entry.mode
        node.mode = _one(_TYPES[entry.kind] | permissions)
        node.layer = self.number
        node.uid, node.gid, node.mtime_ns = _one(entry.uid), _one(entry.gid), entry.mtime_ns
        xattrs = entry.xattrs
        if xattrs or node.xattrs:
            node.xattrs = {name: xattrs[name] for name in xattrs if not is_hidden(name)}
        if entry.kind == REGULAR:
            node.size = entry.size
            node.extent = Extent(self.number, entry.offset, entry.stored, entry.sparse) if entry.size else None
        elif entry.kind == SYMLINK:
            node.target, node.size = entry.linkname, len(entry.linkname)
        else:
            node.rdev = entry.rdev
        return node

    def _resolve(self, path: list[bytes]) -> Node | None:
        """Return the directory at `path`, following symlinks; None if there is none."""
        node, missing = self._follow(path)
        return None if missing else node

    def _make_directories(self, path: list[bytes], entry: Entry) -> Node:
        """Return the directory at `path`, following symlinks; make it where there is nothing, and where a file is."""
        node, missing = self._follow(path)
        if missing and missing[0] in node.names():
            self._warn(entry, f"lies below '{printable(missing[0])}', which is a file; a directory replaces it")
        if missing:
            self._mark_above(node)
        for name in missing:
            self.account.add_entry()
            node = self._make_directory(node, name)
            self.implied.add(node)
        return node

    def _follow(self, path: list[bytes]) -> tuple[Node, list[bytes]]:
        """Return the last directory on the way along `path`, and the names of those below it that are missing.

        Symlinks are followed. What a symlink names and leaves again by `..` need not be there.
        """
        todo = path[::-1]
        links = 0
        node = self.root
        missing: list[bytes] = []
        while todo:
            name = todo.pop()
            child = None if missing else node.names().get(name)
            if child is not None and child.is_dir:
                node = child
            elif child is not None and stat.S_ISLNK(child.mode):
                links += 1
                todo += self._followed(child.target, links)[::-1]
                node = self.root if child.target.startswith(b"/") else node
            elif name not in (b"", b".", b".."):  # only a symlink's target has such names
                missing.append(name)
            elif missing and name == b"..":
                missing.pop()
            elif name == b"..":
                node = node.parent or node
        return node, missing

    def _followed(self, target: bytes, links: int) -> list[bytes]:
        """Return the names that a symlink leads to, the `links`th on the way."""
        names = target.split(b"/")
        if links > _MAX_LINKS:
            raise InvalidImageError(f"more than {_MAX_LINKS} symlinks on the way to it")
        self.account.add_steps(len(names))
        return names

    def _make_directory(self, parent: Node, name: bytes) -> Node:
        node = Node(stat.S_IFDIR | 0o755, layer=self.number)
        node.parent, node.name = parent, name
        parent.names()[name] = node
        self.opaque.add(node)
        return node


def is_hidden(xattr: bytes) -> bool:
    """Whether an extended attribute of that name is left out of every tree."""
    return xattr.startswith(_HIDDEN)


@lru_cache(4096)
def _one(number: int) -> int:
    """Return the same object for the same number: most files have one of a few modes and owners."""
    return number


def clean_path(path: bytes) -> tuple[list[bytes], bool]:
    """Return the names of `path`, `..` resolved by name alone, and whether it stays below the root."""
    names: list[bytes] = []
    inside = True
    for name in path.split(b"/"):
        if name == b"..":
            inside = inside and bool(names)
            del names[-1:]
        elif name not in (b"", b"."):
            names.append(name)
    return names, inside
