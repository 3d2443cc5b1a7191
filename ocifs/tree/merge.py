"""Apply layers, in manifest order, to one tree.

The rule is OCI image-spec layer.md, "Applying Changesets": a whiteout removes files of lower layers and none of its
own layer, wherever in the layer it stands. For each entry, `_Layer` resolves the path inside the tree, following
symlinks; nothing outside the tree exists. A name of this layer shows in its node's `layer`; `further` and `implied`
record the exceptions. Where the specification is silent, the result is umoci's. This module knows nothing of how the
tree is stored.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from ocifs.errors import InvalidImageError, OcifsError, printable
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.toc import BLOCK, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Entry
from ocifs.tree.changes import Name, changed_tree
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
"""Kinds of entries that may change how a path resolves."""
_MAX_LINKS = 40
"""Symlinks followed in one path, as in Linux."""
_HIDDEN = (b"trusted.overlay.", b"user.overlay.", b"security.selinux")
"""Extended attributes that describe another mount: overlayfs would obey them, SELinux has its own policy."""


def merge(layers: Iterable[Iterable[Entry]], warn: Callable[[str], None], limits: Limits = DEFAULT_LIMITS) -> Node:
    """Return the root of the merged tree of `layers`, base layer first.

    A directory without an entry is 0755 root:root, mtime 0, as is the root.

    Raises:
        InvalidImageError: A whiteout names no file, a hard link has no target, symlinks loop, or the root is not a
            directory.
        LimitError: There are too many entries and directories that they imply, or too many symlinks in paths.
    """
    root = Node(stat.S_IFDIR | 0o755)
    for _ in _apply(root, layers, warn, limits):
        pass
    return root


def changes(
    layers: Iterable[Iterable[Entry]], warn: Callable[[str], None], limits: Limits = DEFAULT_LIMITS
) -> Iterator[Node]:
    """Yield for each of `layers`, base layer first, the tree of its changes (`ocifs.tree.changes`).

    Raises the errors of `merge` at the layer that causes them.
    """
    for layer in _apply(Node(stat.S_IFDIR | 0o755), layers, warn, limits, record_added=True):
        yield changed_tree(layer.root, layer.number, layer.added or [], layer.removed, layer.cut)


def _apply(
    root: Node,
    layers: Iterable[Iterable[Entry]],
    warn: Callable[[str], None],
    limits: Limits,
    *,
    record_added: bool = False,
) -> "Iterator[_Layer]":
    usage = _Usage(limits)
    for number, entries in enumerate(layers):
        layer = _Layer(root, number, warn, usage)
        layer.added = [] if record_added else None
        for entry in entries:
            try:
                layer.apply(entry)
            except OcifsError as error:
                raise type(error)(f"layer {number}, entry '{printable(entry.path)}': {error}") from None
        yield layer


class _Usage:
    """Counts entries and symlink steps of all layers, and enforces their limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries = 0
        self._steps = 0

    def add_entry(self) -> None:
        """Count an entry or an implied directory."""
        self._entries += 1
        if self._entries > self._limits.image_entries:
            limit = self._limits.image_entries
            raise self._limits.passed("image_entries", f"more than {limit} tar entries and directories that they imply")

    def add_steps(self, count: int) -> None:
        """Count names from the target of a symlink."""
        self._steps += count
        if self._steps > self._limits.symlink_steps:
            raise self._limits.passed("symlink_steps", f"{self._steps} steps through the image's symlinks")


class _Layer:
    """Applies one layer, and records which names of the tree below `root` it added."""

    def __init__(self, root: Node, number: int, warn: Callable[[str], None], usage: _Usage) -> None:
        self.root = root
        self.number = number
        self.warn = warn
        self.usage = usage
        self.further: dict[Node, dict[bytes, bool]] = {}
        """By directory, this layer's names whose node has another layer number: hard links (True), and directories of
        lower layers above a name that this layer added (False)."""
        self.implied: set[Node] = set()
        """Directories that it made without an entry for them."""
        self.added: list[Name] | None = None
        """Names of its entries; None if the caller does not need them."""
        self.opaque: set[Node] = set()
        """Directories without lower content at any depth, so that a further whiteout there has no effect."""
        self.removed: list[Name] = []
        """Lower names that it removed, with all below them; this layer may add the same names before or after."""
        self.cut: list[Node] = []
        """Directories of lower layers that it made opaque."""
        self.last: tuple[list[bytes], Node | None] = ([], None)
        """Path and directory of the last entry's parent; None once the path may resolve elsewhere."""

    def apply(self, entry: Entry) -> None:
        """Apply one entry."""
        self.usage.add_entry()
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
        if self._added(directory, name, child) is None:
            del directory.names()[name]
            self.removed.append((directory, name))
        elif child.is_dir:
            self._cut(child)

    def _cut(self, directory: Node) -> None:
        if directory not in self.opaque:
            self.cut.append(directory)
            self._remove_lower([directory])

    def _remove_lower(self, pending: list[Node]) -> None:
        """Remove from the directories `pending`, at all depths, the names that this layer did not add."""
        while pending:
            directory = pending.pop()
            if directory in self.opaque:
                continue
            self.opaque.add(directory)
            children = directory.names()
            for name, child in list(children.items()):
                if self._added(directory, name, child) is None:
                    del children[name]
                elif child.is_dir:
                    pending.append(child)

    def _add(self, path: list[bytes], entry: Entry) -> None:
        if not path:
            if entry.kind != DIRECTORY:
                raise InvalidImageError("the root must be a directory")
            self._describe(self.root, entry)
            return
        name = path.pop()
        last_path, directory = self.last
        if directory is None or path != last_path:
            directory = self._make_directories(path, entry)
            self.last = path, directory
        children = directory.names()
        child = children.get(name)
        self._warn_of_loss(entry, directory, name)
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

    def _warn_of_loss(self, entry: Entry, directory: Node, name: bytes) -> None:
        """Warn of an entry that removes what its own layer added."""
        child = directory.names().get(name)
        added = None if child is None else self._added(directory, name, child)
        if added:
            self._warn(entry, "occurs twice; the later one counts")
        elif added is not None and entry.kind != DIRECTORY and child is not None and child.is_dir:
            self._warn(entry, "replaces a directory in which this layer has put files; they are gone")

    def _added(self, directory: Node, name: bytes, child: Node) -> bool | None:
        """Return whether this layer has an entry of that name; None if the name is from lower layers only.

        All names of a node with this layer's number are from this layer, so they need no further memory.
        """
        if child.layer == self.number and child not in self.implied:
            return True
        names = self.further.get(directory)
        otherwise = False if child in self.implied else None
        return names.get(name, otherwise) if names else otherwise

    def _mark(self, directory: Node, name: bytes, child: Node) -> None:
        """Record that this layer added `child` as `name` to `directory`, which it and all above must therefore keep."""
        if self.added is not None:
            self.added.append((directory, name))
        self.implied.discard(child)
        if child.layer != self.number:
            self.further.setdefault(directory, {})[name] = True
        self._mark_above(directory)

    def _mark_above(self, directory: Node) -> None:
        """Record that this layer added something below `directory`."""
        while (parent := directory.parent) is not None and self._added(parent, directory.name, directory) is None:
            self.further.setdefault(parent, {})[directory.name] = False
            directory = parent

    def _link_target(self, linkname: bytes, link: Name) -> Node:
        """Return the current node of `linkname`, the target of the hard link `link`; follow no symlink at its end."""
        path, _ = clean_path(linkname)
        directory = self._resolve(path[:-1]) if path else None
        if directory and (directory, path[-1]) == link:
            raise InvalidImageError("a hard link to itself")
        node = directory.names().get(path[-1]) if directory else None
        if node is None:
            raise InvalidImageError(
                f"hard link to '{printable(linkname)}': no such file in lower layers, or earlier in its own"
            )
        if node.is_dir:
            raise InvalidImageError(f"hard link to '{printable(linkname)}', which is a directory")
        return node

    def _describe(self, node: Node, entry: Entry) -> Node:
        """Set the attributes of `node` from `entry`."""
        permissions = 0o777 if entry.kind == SYMLINK else entry.mode
        node.mode = _shared(_TYPES[entry.kind] | permissions)
        node.layer = self.number
        node.uid, node.gid, node.mtime_ns = _shared(entry.uid), _shared(entry.gid), entry.mtime_ns
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
        """Return the directory at `path`, following symlinks; None if it does not exist."""
        node, missing = self._follow(path)
        return None if missing else node

    def _make_directories(self, path: list[bytes], entry: Entry) -> Node:
        """Return the directory at `path`, following symlinks; make missing ones, and replace a file."""
        node, missing = self._follow(path)
        if missing and missing[0] in node.names():
            self._warn(entry, f"lies below '{printable(missing[0])}', which is a file; a directory replaces it")
        if missing:
            self._mark_above(node)
        for name in missing:
            self.usage.add_entry()
            node = self._make_directory(node, name)
            self.implied.add(node)
        return node

    def _follow(self, path: list[bytes]) -> tuple[Node, list[bytes]]:
        """Return the last existing directory along `path`, and the names of the missing ones below it.

        It follows symlinks. A directory that a symlink's target enters and leaves again by `..` need not exist.
        """
        pending = path[::-1]
        links = 0
        node = self.root
        missing: list[bytes] = []
        while pending:
            name = pending.pop()
            child = None if missing else node.names().get(name)
            if child is not None and child.is_dir:
                node = child
            elif child is not None and stat.S_ISLNK(child.mode):
                links += 1
                pending += self._target_names(child.target, links)[::-1]
                node = self.root if child.target.startswith(b"/") else node
            elif name not in (b"", b".", b".."):  # only symlink targets have these names
                missing.append(name)
            elif missing and name == b"..":
                missing.pop()
            elif name == b"..":
                node = node.parent or node
        return node, missing

    def _target_names(self, target: bytes, links: int) -> list[bytes]:
        """Return the names in the target of a symlink, the `links`th of its path."""
        names = target.split(b"/")
        if links > _MAX_LINKS:
            raise InvalidImageError(f"its path leads through more than {_MAX_LINKS} symlinks")
        self.usage.add_steps(len(names))
        return names

    def _make_directory(self, parent: Node, name: bytes) -> Node:
        node = Node(stat.S_IFDIR | 0o755, layer=self.number)
        node.parent, node.name = parent, name
        parent.names()[name] = node
        self.opaque.add(node)
        return node


def is_hidden(xattr: bytes) -> bool:
    """Whether every tree leaves out an extended attribute of that name."""
    return xattr.startswith(_HIDDEN)


@lru_cache(4096)
def _shared(number: int) -> int:
    """Return one shared object for equal numbers: most files have one of a few modes and owners."""
    return number


def clean_path(path: bytes) -> tuple[list[bytes], bool]:
    """Return the names of `path` with `..` resolved lexically, and whether it stays below the root."""
    names: list[bytes] = []
    inside = True
    for name in path.split(b"/"):
        if name == b"..":
            inside = inside and bool(names)
            del names[-1:]
        elif name not in (b"", b"."):
            names.append(name)
    return names, inside
