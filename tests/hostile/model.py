"""A naive model of an image: whole paths and what is at them, searched from end to end for every question.

It is written from OCI image-spec layer.md and the cases of docs/layers.md, and shares nothing with `ocifs.tree`.
"""

import stat
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.tars import header, pax

Names = tuple[bytes, ...]

_FLAGS = {"file": b"0", "hardlink": b"1", "symlink": b"2", "device": b"3", "directory": b"5", "fifo": b"6"}
_TYPES = {
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "device": stat.S_IFCHR,
    "directory": stat.S_IFDIR,
    "fifo": stat.S_IFIFO,
}


class Member(NamedTuple):
    """A member of a layer's tar."""

    kind: str
    path: bytes
    mode: int = 0o644
    uid: int = 0
    mtime: int = 0
    data: bytes = b""
    """Of a file."""
    target: bytes = b""
    """Of a link."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    zeros: int = 0
    """Digits of the owner, if a pax record gives it, leading zeros included."""

    def tar(self) -> bytes:
        """Return its header and data."""
        size = len(self.data)
        uid = 0 if self.zeros else self.uid
        fields: dict[str, int | bytes] = {"mode": self.mode, "uid": uid, "mtime": self.mtime}
        if self.kind == "device":
            fields |= {"major": 1, "minor": 3}
        records = {b"SCHILY.xattr." + name: value for name, value in self.xattrs}
        if self.zeros:
            records[b"uid"] = b"%0*d" % (self.zeros, self.uid)
        if len(self.path) > 100:
            records[b"path"] = self.path
        if len(self.target) > 100:
            records[b"linkpath"] = self.target
        block = header(self.path[:100], size, flag=_FLAGS[self.kind], link=self.target[:100], **fields)
        return (pax(records) if records else b"") + block + self.data + bytes(-size % 512)


@dataclass(eq=False)
class Node:
    """A file of the tree; hard links are one node at several paths."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    mtime: int | None = None
    """None: of a directory that no layer describes."""
    data: bytes = b""
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    stirred: bool = False
    """Whether, since an entry described it, a directory was made in it that none describes, or a whiteout cut it."""


class Seen(NamedTuple):
    """A file as `look` finds it, by whatever way."""

    mode: int
    uid: int
    content: bytes
    """Or the target, or the device number."""
    xattrs: dict[bytes, bytes]
    mtime: int | None
    """Seconds."""
    links: tuple[bytes, ...]
    """All paths of the file, sorted; of a directory its own only."""


class RefusedError(Exception):
    """No tree comes of it."""


class Model:
    """A tree to which layers are applied."""

    def __init__(self) -> None:
        self.tree: dict[Names, Node] = {(): Node("directory")}
        self.displaced = False
        """Whether a file had to go for a directory that no entry describes."""

        self.upper: set[Names] = set()
        """What the layer at hand gave, and the directories above."""

    def begin_layer(self) -> None:
        """Have what is there be of lower layers."""
        self.upper = set()

    def seen(self, *, stirred: bool = True) -> dict[bytes, Seen]:
        """Return the tree, to be compared; without the times of what was stirred, if that does not count."""
        found = {}
        for path, node in self.tree.items():
            own = [b"/".join(other) for other, each in self.tree.items() if each is node]
            content = {"file": node.data, "symlink": node.target, "device": b"1:3"}.get(node.kind, b"")
            mode = _TYPES[node.kind] | (0o777 if node.kind == "symlink" else node.mode)
            mtime = node.mtime if stirred or not node.stirred else None
            found[b"/".join(path)] = Seen(mode, node.uid, content, node.xattrs, mtime, tuple(sorted(own)))
        return found

    def apply(self, member: Member) -> None:
        """Apply a member of the layer at hand. Raises RefusedError."""
        names = clean(member.path)
        *parents, name = names or [b""]
        if name == b".wh..wh..opq":
            directory = self._resolve(parents)
            if directory is not None:
                self._cut({path for path in self._below(directory) if path != directory} - self.upper)
        elif name.startswith(b".wh."):
            directory = self._resolve(parents)
            if directory is not None:
                stirred = self.tree[directory].stirred
                self._cut(self._below((*directory, name[4:])) - self.upper)
                self.tree[directory].stirred = stirred
        else:
            self._add(member, names)

    def _add(self, member: Member, names: list[bytes]) -> None:
        if not names:
            if member.kind != "directory":
                raise RefusedError("the root")
            self.tree[()] = self._node(member)
            return
        path = (*self._made(names[:-1]), names[-1])
        before = self.tree.get(path)
        if member.kind == "hardlink":
            self._remove(self._below(path))
            found = self._resolve(clean(member.target)[:-1]) if clean(member.target) else None
            node = None if found is None else self.tree.get((*found, clean(member.target)[-1]))
            if node is None or node.kind == "directory":
                raise RefusedError("a hard link")
            self.tree[path] = node
        else:
            if not (before and before.kind == member.kind == "directory"):
                self._remove(self._below(path))
            self.tree[path] = self._node(member)
        self.upper.update(path[: depth + 1] for depth in range(len(path)))

    @staticmethod
    def _node(member: Member) -> Node:
        return Node(member.kind, member.mode, member.uid, member.mtime, member.data, member.target, dict(member.xattrs))

    def _below(self, path: Names) -> set[Names]:
        return {each for each in self.tree if each[: len(path)] == path}

    def _remove(self, paths: set[Names]) -> None:
        for path in paths:
            del self.tree[path]

    def _cut(self, paths: set[Names]) -> None:
        self._remove(paths)
        for path in paths:
            if path[:-1] in self.tree:
                self.tree[path[:-1]].stirred = True

    def _made(self, names: list[bytes]) -> Names:
        found = self._resolve(names, create=True)
        assert found is not None
        return found

    def _resolve(self, names: list[bytes], *, create: bool = False) -> Names | None:
        """Return the directory at `names`, symlinks followed; None where there is none."""
        place: Names = ()
        left = list(names)
        links = 0
        while left:
            name = left.pop(0)
            if name in (b"", b"."):
                continue
            if name == b"..":
                place = place[:-1]
                continue
            path = (*place, name)
            node = self.tree.get(path)
            if node and node.kind == "symlink":
                links += 1
                if links > 40:
                    raise RefusedError("a loop")
                left = node.target.split(b"/") + left
                place = () if node.target.startswith(b"/") else place
            else:  # even if it is not there: `..` may follow
                place = path
        for depth in range(1, len(place) + 1):
            node = self.tree.get(place[:depth])
            if node is None or node.kind != "directory":
                if not create:
                    return None
                self.displaced |= node is not None
                self.tree[place[:depth]] = Node("directory")
                self.tree[place[: depth - 1]].stirred = True
        return place


def clean(path: bytes) -> list[bytes]:
    """Return the names of a path, `..` taken by name alone, and never above the root."""
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            names = names[:-1]
        elif name not in (b"", b"."):
            names.append(name)
    return names
