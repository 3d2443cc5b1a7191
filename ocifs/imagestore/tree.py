"""One tree image of all layers of a store, as the overlay driver of containers/storage lays out its directory.

    ID/diff     what the layer changes, with whiteouts of overlayfs
    ID/link     a short name of the layer; l/NAME is a symlink to its diff
    ID/lower    the short names of the layers below, the nearest first
    ID/merged, ID/work, ID/empty     mountpoints and work directories of the driver

Images with the same layers share them. All tar streams are parts of one served file, so the layers of all images have
one sequence of numbers. An extent may lie in a layer below, if a layer adds a hard link to one of its files.
"""

import stat
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from ocifs.id_ranges import IdRange, mapped
from ocifs.image.opening import Image
from ocifs.image.rootfs import Rootfs
from ocifs.imagestore.ids import OVERFLOW
from ocifs.imagestore.records import IdRanges, link_name
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from ocifs.limits import Limits
from ocifs.options import Options
from ocifs.spec.digest import Digest
from ocifs.store import Kind, StoredFile, Writer
from ocifs.tree.changes import OPAQUE_XATTR, WHITEOUT_XATTR
from ocifs.tree.node import Node

STORE_TREE = Kind("imagestore", 1, sealed=True)
"""The tree image of all layers of a store."""

_USER_OPAQUE = b"user.overlay.opaque"
"""The mark that an overlay mount without privileges reads (`userxattr` in overlayfs.rst)."""
_LINKS = b"l"


class StackedImage(NamedTuple):
    """An opened image with the ID of each of its layers, the base first."""

    image: Image
    ids: tuple[str, ...]


class StoreTree(NamedTuple):
    """The tree of a store, and a digest that names it. The caller closes both."""

    rootfs: Rootfs
    file: StoredFile
    digest: Digest

    def close(self) -> None:
        """Close the tree."""
        self.rootfs.close()
        self.file.close()


def open_store_tree(images: Sequence[StackedImage], options: Options, ids: IdRanges | None) -> StoreTree:
    """Return the tree of all layers, from the cache or compiled; the images must stay open as long as it is read.

    Raises InvalidImageError, LimitError and UnsupportedError as opening an image does.
    """
    layers, numbers = _numbered(images, SpanCache(options.span_cache))
    digest = _name(images, layers, numbers, ids)
    limits = msgspec.structs.replace(options.limits, paths=options.limits.paths * max(1, len(images)))

    def build(out: Writer) -> None:
        from ocifs.erofs.writer import compile_tree  # not needed if the tree is cached, nor is merging

        def read(layer: int, size: int, offset: int) -> bytes:
            return layers[layer].pread(size, offset)

        root = _root(images, numbers, _Owners(ids), options.warn, limits)
        out.write(compile_tree(root, [layer.size for layer in layers], read, options.warn, (), limits))

    file = options.store.get(STORE_TREE, digest, build)
    try:
        return StoreTree(Rootfs(file, layers, limits), file, digest)
    except BaseException:
        file.close()
        raise


def stream_key(layer: Layer) -> tuple[str, ...]:
    """Return a key that is equal for interchangeable layers; that of an unverified layer is unique."""
    if layer.verification.is_verified:
        return (layer.index.stream,)
    return (layer.index.stream, str(layer.index.summary.blob_digest), layer.verification.published or "")


def _numbered(images: Sequence[StackedImage], cache: SpanCache) -> tuple[list[Layer], list[list[int]]]:
    """Return the distinct layers of all images, numbered through, and for each image the numbers of its layers."""
    by_key: dict[tuple[str, ...], Layer] = {}
    numbers = []
    for each in images:
        own = []
        for layer in each.image.layers:
            key = stream_key(layer)
            if key not in by_key:
                published = layer.verification.published
                by_key[key] = Layer(len(by_key), layer.index, layer.blob, cache, published)
                by_key[key].verification = layer.verification
                by_key[key].prefetch = layer.prefetch
            own.append(by_key[key].number)
        numbers.append(own)
    return list(by_key.values()), numbers


def _name(
    images: Sequence[StackedImage], layers: Sequence[Layer], numbers: Sequence[Sequence[int]], ids: IdRanges | None
) -> Digest:
    described = (
        [(stream_key(layer), layer.size) for layer in layers],
        [(each.ids, own) for each, own in zip(images, numbers, strict=True)],
        ids and (ids.kind, ids.uids, ids.gids),
    )
    return Digest.of(msgspec.json.encode(described))


class _Owners:
    """The owners of files in the tree, and the name of the mark of an opaque directory."""

    def __init__(self, ids: IdRanges | None) -> None:
        is_shifted = ids is not None and ids.kind == "subuid"
        self._uids: Sequence[IdRange] | None = ids.uids if ids is not None and is_shifted else None
        self._gids: Sequence[IdRange] | None = ids.gids if ids is not None and is_shifted else None
        self.opaque = OPAQUE_XATTR if ids is None else _USER_OPAQUE
        self.lost: set[int] = set()
        """Ids in images that have no counterpart on this machine."""

    def uid(self, number: int) -> int:
        return self._mapped(number, self._uids)

    def gid(self, number: int) -> int:
        return self._mapped(number, self._gids)

    def _mapped(self, number: int, ranges: Sequence[IdRange] | None) -> int:
        if ranges is None:
            return number
        found = mapped(number, ranges)
        if found is None:
            self.lost.add(number)
            return OVERFLOW
        return found


def _root(
    images: Sequence[StackedImage],
    numbers: Sequence[Sequence[int]],
    owners: _Owners,
    warn: Callable[[str], None],
    limits: Limits,
) -> Node:
    """Return the root of the tree."""
    from ocifs.tree.merge import changes

    root, links = _directory(owners), _directory(owners)
    root.names()[_LINKS] = links
    for each, own in zip(images, numbers, strict=True):
        entries = (layer.index.entries() for layer in each.image.layers)
        below: set[bytes] = set()
        # Without warnings: opening the image has printed them.
        for number, changed in enumerate(changes(entries, lambda message: None, limits)):
            identity = each.ids[number]
            if identity.encode() not in root.names():
                diff = _copied(changed, own, owners)
                if OPAQUE_XATTR in changed.xattrs:
                    _hide(diff, below, owners)
                root.names()[identity.encode()] = _layer(diff, each.ids[: number + 1], owners)
                links.names()[link_name(identity).encode()] = _symlink(f"../{identity}/diff", owners)
            below = _names_with(changed, below)
    if owners.lost:
        some = ", ".join(map(str, sorted(owners.lost)[:5]))
        warn(f"files of the ids {some} belong to the overflow user: the store's user has no subordinate ids for them")
    return root


def _names_with(changed: Node, below: set[bytes]) -> set[bytes]:
    """Return the names in the root directory once a layer with these changes is applied; `below` are those before."""
    removed = {name for name, child in changed.names().items() if WHITEOUT_XATTR in child.xattrs}
    kept = set() if OPAQUE_XATTR in changed.xattrs else below - removed
    return kept | (changed.names().keys() - removed)


def _hide(diff: Node, below: set[bytes], owners: _Owners) -> None:
    """Hide everything that layers below have by whiteouts: overlayfs ignores the mark of an opaque root directory."""
    diff.xattrs = {name: value for name, value in diff.xattrs.items() if name != owners.opaque}
    for child in diff.names().values():
        if child.is_dir:
            child.xattrs = {**child.xattrs, owners.opaque: b"y"}
    for name in below - diff.names().keys():
        diff.names()[name] = Node(stat.S_IFCHR, layer=diff.layer, uid=owners.uid(0), gid=owners.gid(0))


def _layer(diff: Node, ids: Sequence[str], owners: _Owners) -> Node:
    """Return the directory of the last of some layers."""
    *below, own = ids
    node = _directory(owners)
    node.names()[b"diff"] = diff
    node.names()[b"link"] = _file(link_name(own), owners)
    if below:
        lower = ":".join(f"l/{link_name(each)}" for each in reversed(below))
        node.names()[b"lower"] = _file(lower, owners)
    for name in (b"merged", b"work", b"empty"):
        node.names()[name] = _directory(owners)
    return node


def _directory(owners: _Owners) -> Node:
    return Node(stat.S_IFDIR | 0o755, uid=owners.uid(0), gid=owners.gid(0))


def _file(content: str, owners: _Owners) -> Node:
    node = Node(stat.S_IFREG | 0o644, uid=owners.uid(0), gid=owners.gid(0))
    node.content = content.encode()
    return node


def _symlink(target: str, owners: _Owners) -> Node:
    node = Node(stat.S_IFLNK | 0o777, uid=owners.uid(0), gid=owners.gid(0))
    node.target = target.encode()
    return node


def _copied(root: Node, numbers: Sequence[int], owners: _Owners) -> Node:
    """Return a copy of a tree of changes, whose files `merge` still needs, with the numbers of the store's layers."""
    copies = {root: _copy(root, numbers, owners)}
    pending = [root]
    while pending:
        directory = pending.pop()
        names = copies[directory].names()
        for name, child in directory.names().items():
            if child not in copies:
                copies[child] = _copy(child, numbers, owners)
                if child.is_dir:
                    pending.append(child)
            names[name] = copies[child]
    return copies[root]


def _copy(node: Node, numbers: Sequence[int], owners: _Owners) -> Node:
    copy = Node(
        node.mode,
        layer=numbers[node.layer] if numbers else 0,
        uid=owners.uid(node.uid),
        gid=owners.gid(node.gid),
        mtime_ns=node.mtime_ns,
    )
    copy.size, copy.rdev, copy.target = node.size, node.rdev, node.target
    if node.xattrs:
        copy.xattrs = dict(_xattrs(node.xattrs.items(), owners))
    if node.extent is not None:
        copy.extent = msgspec.structs.replace(node.extent, layer=numbers[node.extent.layer])
    return copy


def _xattrs(xattrs: Iterable[tuple[bytes, bytes]], owners: _Owners) -> Iterable[tuple[bytes, bytes]]:
    """Yield the attributes as overlayfs reads them: a whiteout needs no mark."""
    for name, value in xattrs:
        if name == OPAQUE_XATTR:
            yield owners.opaque, value
        elif name != WHITEOUT_XATTR:
            yield name, value
