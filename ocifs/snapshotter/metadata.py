"""The metadata of snapshots, with containerd's rules for their changes (its package snapshots).

Snapshots form trees. A committed snapshot never changes, except for its labels, and can be a parent; active snapshots
and views have no children. A *remote* snapshot is a committed one with a chain ID: the layers up to it are those of an
image in a registry, and it has no directory. Safe for several threads.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import msgspec

from ocifs.snapshotter.database import Database
from ocifs.snapshotter.status import SnapshotError, already_exists, not_found

SnapshotKind = Literal["active", "view", "committed"]
LABEL_MAX = 4096
"""Most bytes of the key and the value of a label, as in containerd."""
_NAME_MAX = 4096
_LABELS_MAX = 1000


class Snapshot(NamedTuple):
    """A snapshot."""

    id: int
    name: str
    parent: str
    """Empty: none."""
    kind: SnapshotKind
    created: int
    """Nanoseconds since the epoch."""
    updated: int
    labels: dict[str, str]
    chain: str | None
    """The chain ID of a remote snapshot."""
    usage: tuple[int, int] | None
    """Bytes and inodes of a committed snapshot, once they were counted."""


class ImageSource(NamedTuple):
    """An image in a registry that begins with the layers of a chain ID."""

    repository: str
    """`HOST[:PORT]/REPOSITORY`."""
    manifest: str
    """Digest of the image's manifest."""
    depth: int
    """Number of layers of the chain."""
    total: int
    """Number of layers of the image."""


_COLUMNS = "s.id, s.name, p.name, s.kind, s.created, s.updated, s.labels, s.chain, s.size, s.inodes"
_SELECT = f"SELECT {_COLUMNS} FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent"  # noqa: S608
_LINEAGE = f"""
WITH RECURSIVE lineage (id, depth) AS (
    SELECT id, 0 FROM snapshots WHERE name = ?
    UNION ALL SELECT s.parent, depth + 1 FROM snapshots s JOIN lineage l ON s.id = l.id WHERE s.parent IS NOT NULL
) SELECT {_COLUMNS} FROM lineage l JOIN snapshots s ON s.id = l.id LEFT JOIN snapshots p ON p.id = s.parent
ORDER BY l.depth
"""  # noqa: S608 - constants only
_IN_USE = """
WITH RECURSIVE used (id, chain) AS (
    SELECT id, chain FROM snapshots WHERE kind <> 'committed'
    UNION SELECT p.id, p.chain FROM used u JOIN snapshots s ON s.id = u.id JOIN snapshots p ON p.id = s.parent
    WHERE u.chain IS NULL
) SELECT DISTINCT chain FROM used WHERE chain IS NOT NULL
"""


_USERS = """
WITH RECURSIVE above (id) AS (
    SELECT id FROM snapshots WHERE chain = ?
    UNION SELECT s.id FROM above a JOIN snapshots s ON s.parent = a.id WHERE s.chain IS NULL
) SELECT name FROM above a JOIN snapshots s ON s.id = a.id WHERE kind <> 'committed'
"""


class Metadata:
    """The snapshots in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.RLock()

    def get(self, name: str) -> Snapshot:
        """Return a snapshot. Raises SnapshotError."""
        with self._lock:
            rows = self._database.read(f"{_SELECT} WHERE s.name = ?", _checked_name(name))
        if not rows:
            raise not_found(name)
        return self._snapshot(rows[0])

    def all(self) -> list[Snapshot]:
        """Return all snapshots, the remote ones first, then the oldest.

        After ALREADY_EXISTS, containerd takes the first one with the chain ID as a label.
        """
        with self._lock:
            return [self._snapshot(row) for row in self._database.read(f"{_SELECT} ORDER BY s.chain IS NULL, s.id")]

    def lineage(self, name: str) -> list[Snapshot]:
        """Return a snapshot, its parent, and so on. Raises SnapshotError."""
        with self._lock:
            rows = self._database.read(_LINEAGE, _checked_name(name))
        if not rows:
            raise not_found(name)
        return [self._snapshot(row) for row in rows]

    def create(
        self,
        kind: Literal["active", "view"],
        name: str,
        parent: str,
        labels: Mapping[str, str],
        make: Callable[[int], None],
    ) -> Snapshot:
        """Add an active snapshot or a view; `make` makes the directory for its ID before other threads can see it.

        Raises:
            SnapshotError: The name is taken; or the parent is missing, or not committed.
        """
        _checked_name(name)
        with self._changing():
            parent_id = self._parent_id(parent)
            if self._exists(name):
                raise already_exists(name)
            added = self._add(name, parent_id, kind, _checked_labels(labels), None)
            make(added)
        return self.get(name)

    def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Turn the active snapshot `key` into a committed one, with these labels instead of its own.

        Raises:
            SnapshotError: There is no such snapshot, it is not active, or the name is taken.
        """
        _checked_name(name)
        encoded = _checked_labels(labels)
        with self._changing():
            if self._exists(name):
                raise already_exists(name)
            if self.get(key).kind != "active":
                raise SnapshotError("FAILED_PRECONDITION", f"snapshot {key!r} is not active")
            now = time.time_ns()
            self._database.write(
                "UPDATE snapshots SET name = ?, kind = 'committed', labels = ?, created = ?, updated = ? "
                "WHERE name = ?", name, encoded, now, now, key,
            )  # fmt: skip

    def add_remote(self, name: str, parent: str, labels: Mapping[str, str], chain: str, source: ImageSource) -> None:
        """Add a committed snapshot without a directory, or another source of the one that stands for the chain.

        If a snapshot with another parent has the name, the chain ID with `name` becomes the name.

        Raises:
            SnapshotError: The parent is missing, or not committed.
        """
        _checked_name(name)
        encoded = _checked_labels(labels)
        with self._changing():
            parent_id = self._parent_id(parent)
            present = "SELECT 1 FROM snapshots WHERE chain = ? AND parent IS ?"
            if not self._database.read(present, chain, parent_id):
                self._add(f"{chain} {name}" if self._exists(chain) else chain, parent_id, "committed", encoded, chain)
            self._database.write(
                "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?)", chain, *source, time.time_ns()
            )

    def remove(self, name: str) -> Snapshot:
        """Remove a snapshot, but not its directory; return it. Sources of a chain without snapshots are removed, too.

        Raises:
            SnapshotError: There is no such snapshot, or it has children.
        """
        with self._changing():
            removed = self.get(name)
            if self._database.read("SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", removed.id):
                raise SnapshotError("FAILED_PRECONDITION", f"cannot remove snapshot {name!r}: it has children")
            self._database.write("DELETE FROM snapshots WHERE id = ?", removed.id)
            if removed.chain is not None:
                self._database.write(
                    "DELETE FROM sources WHERE chain = ?1 AND NOT EXISTS "
                    "(SELECT 1 FROM snapshots WHERE chain = ?1)", removed.chain,
                )  # fmt: skip
        return removed

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Snapshot:
        """Change the labels of a snapshot: all, or those that `paths` name (`labels.KEY`); an empty value removes one.

        Raises:
            SnapshotError: There is no such snapshot, or a path names something that never changes.
        """
        with self._changing():
            found = self.get(name)
            changed = dict(found.labels) if paths else dict(labels)
            for path in paths:
                if path == "labels":
                    changed = dict(labels)
                elif path.startswith("labels."):
                    key = path.removeprefix("labels.")
                    changed[key] = labels.get(key, "")
                else:
                    raise SnapshotError("INVALID_ARGUMENT", f"cannot update {path!r} of snapshot {name!r}")
            self._database.write(
                "UPDATE snapshots SET labels = ?, updated = ? WHERE id = ?",
                _checked_labels(changed), time.time_ns(), found.id,
            )  # fmt: skip
            return self.get(name)

    def note_usage(self, snapshot: Snapshot, size: int, inodes: int) -> None:
        """Keep the usage of a committed snapshot."""
        with self._changing():
            self._database.write("UPDATE snapshots SET size = ?, inodes = ? WHERE id = ?", size, inodes, snapshot.id)

    def sources(self, chain: str) -> list[ImageSource]:
        """Return the images that begin with a chain: those that end with it first, then the last one used."""
        with self._lock:
            rows = self._database.read(
                "SELECT repository, manifest, depth, total FROM sources WHERE chain = ? "
                "ORDER BY total - depth, last_used DESC", chain,
            )  # fmt: skip
        return [ImageSource(*cast("tuple[str, str, int, int]", row)) for row in rows]

    def chains(self) -> set[str]:
        """Return the chains of all remote snapshots."""
        with self._lock:
            return {str(row[0]) for row in self._database.read("SELECT chain FROM snapshots WHERE chain IS NOT NULL")}

    def chains_in_use(self) -> set[str]:
        """Return the chains on which an active snapshot or a view lies."""
        with self._lock:
            return {str(row[0]) for row in self._database.read(_IN_USE)}

    def users(self, chain: str) -> list[str]:
        """Return the names of the active snapshots and views that lie on a chain."""
        with self._lock:
            return [str(row[0]) for row in self._database.read(_USERS, chain)]

    def ids(self) -> tuple[set[int], int]:
        """Return the IDs of all snapshots, and the greatest one that any snapshot has had."""
        with self._lock:
            ids = {cast("int", row[0]) for row in self._database.read("SELECT id FROM snapshots")}
            rows = self._database.read("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'")
        return ids, cast("int", rows[0][0]) if rows else 0

    def exclusive(self) -> threading.RLock:
        """Return the lock that every change holds."""
        return self._lock

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock, self._database.transaction():
            yield

    def _add(self, name: str, parent: int | None, kind: SnapshotKind, labels: str, chain: str | None) -> int:
        now = time.time_ns()
        return self._database.write(
            "INSERT INTO snapshots (name, parent, kind, created, updated, labels, chain) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)", name, parent, kind, now, now, labels, chain,
        )  # fmt: skip

    def _snapshot(self, row: tuple[object, ...]) -> Snapshot:
        """Return the snapshot in a row. Raises SnapshotError if it is damaged, which SQLite may not notice."""
        try:
            return _parsed(row)
        except (ValueError, RecursionError) as error:
            raise self._database.broken(f"snapshot {row[1]!r}: {error}") from None

    def _exists(self, name: str) -> bool:
        return bool(self._database.read("SELECT 1 FROM snapshots WHERE name = ?", name))

    def _parent_id(self, parent: str) -> int | None:
        if not parent:
            return None
        try:
            found = self.get(parent)
        except SnapshotError:
            raise SnapshotError("NOT_FOUND", f"parent snapshot {parent!r}: not found") from None
        if found.kind != "committed":
            raise SnapshotError("INVALID_ARGUMENT", f"parent {parent!r} is not a committed snapshot")
        return found.id


def stands_for(snapshot: Snapshot, chain: str) -> bool:
    """Whether a committed snapshot has the content of a chain, according to its name or a label of its pull."""
    return snapshot.chain == chain or (
        snapshot.chain is None
        and (snapshot.name.rpartition("/")[2] == chain or snapshot.labels.get("containerd.io/snapshot.ref") == chain)
    )


def _parsed(row: tuple[object, ...]) -> Snapshot:
    """Return the snapshot in a row. Raises ValueError."""
    number, name, parent, kind, created, updated, labels, chain, size, inodes = row
    usage = None if size is None else (cast("int", size), cast("int", inodes))
    return Snapshot(
        cast("int", number),
        str(name),
        str(parent or ""),
        msgspec.convert(kind, SnapshotKind),
        cast("int", created),
        cast("int", updated),
        msgspec.json.decode(str(labels), type=dict[str, str]),
        cast("str | None", chain),
        usage,
    )


def _checked_name(name: str) -> str:
    if not name:
        raise SnapshotError("INVALID_ARGUMENT", "the name of the snapshot is empty")
    if len(name.encode(errors="replace")) > _NAME_MAX or "\0" in name:
        raise SnapshotError("INVALID_ARGUMENT", f"the name of a snapshot has at most {_NAME_MAX} bytes, and no null")
    return name


def _checked_labels(labels: Mapping[str, str]) -> str:
    """Return labels as JSON, without empty ones."""
    if len(labels) > _LABELS_MAX:
        raise SnapshotError("INVALID_ARGUMENT", f"a snapshot has at most {_LABELS_MAX} labels")
    for key, value in labels.items():
        if not key or len(key.encode()) + len(value.encode()) > LABEL_MAX:
            raise SnapshotError(
                "INVALID_ARGUMENT", f"label {key[:64]!r}: its key is empty, or key and value exceed {LABEL_MAX} bytes"
            )
    return json.dumps({key: value for key, value in labels.items() if value})
