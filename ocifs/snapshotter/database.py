"""The file with the metadata of snapshots: opened, checked, and brought to this version's schema.

It is an SQLite database in WAL mode with a single connection; each change is one transaction, on disk before containerd
learns of it. Nothing here removes a directory: a damaged or missing database is refused, because its snapshots hold the
writes of containers.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from ocifs.errors import StoreError, printable_path
from ocifs.snapshotter.status import SnapshotError
from ocifs.trusted_directory import TrustedDirectory

DATABASE: Final = "metadata.db"
SNAPSHOTS: Final = "snapshots"
"""Name of the directory of the snapshots, beside the database."""

MIGRATIONS: Final = (
    """
    CREATE TABLE snapshots (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        parent INTEGER REFERENCES snapshots (id),
        kind TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        labels TEXT NOT NULL,
        chain TEXT,
        size INTEGER,
        inodes INTEGER
    );
    CREATE INDEX snapshots_by_parent ON snapshots (parent);
    CREATE INDEX snapshots_by_chain ON snapshots (chain) WHERE chain IS NOT NULL;
    CREATE TABLE sources (
        chain TEXT NOT NULL,
        repository TEXT NOT NULL,
        manifest TEXT NOT NULL,
        depth INTEGER NOT NULL,
        total INTEGER NOT NULL,
        last_used INTEGER NOT NULL,
        PRIMARY KEY (chain, repository, manifest)
    ) WITHOUT ROWID;
    """,
)
"""Migrations of the schema from version N to N + 1 (`PRAGMA user_version`)."""
_FULL: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
"""Extended codes of a full disk; the second one is that of the file beside the log."""
_FAILING: Final = {
    sqlite3.SQLITE_IOERR: "check the disk (`dmesg`)",
    sqlite3.SQLITE_READONLY: "check whether the file system has become read-only, and the permissions",
    sqlite3.SQLITE_CANTOPEN: "check the permissions, and the limit on open files (ulimit -n)",
}
"""What to do about the codes of a disk or file that fails."""
_PAGES_MAX: Final = 1 << 20
"""Most pages of 4 KiB: no client fills the disk with labels."""


StepHook = Callable[[str], None]
"""Called with the name of each step that changes something, before the step; tests end the process there."""


class Database:
    """The open database; one thread at a time uses it."""

    def __init__(
        self,
        root: TrustedDirectory,
        step: StepHook = lambda name: None,
        migrations: Sequence[str] = MIGRATIONS,
    ) -> None:
        """Open it, or create it in a new directory; bring it to the version that the `migrations` lead to.

        Raises:
            StoreError: It is damaged or missing, was written by a later version, or cannot be written.
        """
        self._step = step
        self._path = printable_path(str(root.path / DATABASE))
        try:
            self._refuse_missing(root)
            os.close(root.open_file(DATABASE, os.O_RDWR | os.O_CREAT))  # SQLite gives its log the same mode
            self._connection = sqlite3.connect(
                str(root.path / DATABASE), isolation_level=None, check_same_thread=False, timeout=5
            )
        except OSError as error:
            raise StoreError(f"cannot open {self._path}: {error.strerror}") from None
        try:
            self._prepare(migrations)
        except sqlite3.Error as error:
            self._connection.close()
            raise self._unusable(error) from None
        except StoreError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def read(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Return the rows of a query. Raises SnapshotError if the database is damaged, or cannot be read."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def write(self, statement: str, *values: object) -> int:
        """Execute a statement in a transaction; return the ID of a new row. Raises as `transaction`."""
        try:
            return self._connection.execute(statement, values).lastrowid or 0
        except sqlite3.Error as error:
            raise self._failed(error) from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all changes of the block, or none.

        Raises:
            SnapshotError: The disk is full or fails, or the database is damaged; nothing has changed.
        """
        self._step("begin")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._step("commit")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failed(error) from None
        self._step("committed")

    def _refuse_missing(self, root: TrustedDirectory) -> None:
        if os.path.exists(root.path / DATABASE) and os.stat(root.path / DATABASE).st_size:
            return
        snapshots = root.path / SNAPSHOTS
        if snapshots.is_dir() and os.listdir(snapshots):
            raise StoreError(
                f"{self._path} is missing or empty, but {printable_path(str(snapshots))} has snapshots: restore the "
                "database, or move both away if no container needs them"
            )

    def _prepare(self, migrations: Sequence[str]) -> None:
        execute = self._connection.execute
        execute("PRAGMA foreign_keys = ON")
        execute(f"PRAGMA max_page_count = {_PAGES_MAX}")
        (mode,) = execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{self._path}: the file system supports no database in WAL mode: choose another --root")
        execute("PRAGMA synchronous = FULL")
        problems = [str(row[0]) for row in execute("PRAGMA integrity_check(1)")]
        problems = [each for each in problems if each != "ok"] or [
            f"{row[0]} refers to a missing {row[2]}" for row in execute("PRAGMA foreign_key_check")
        ]
        if problems:
            raise self._damaged(problems[0].splitlines()[-1])
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise StoreError(f"{self._path} was written by a later version of ocifs: install that one")
        for number, migration in enumerate(migrations[version:], version + 1):
            self._connection.executescript(f"BEGIN IMMEDIATE; {migration} PRAGMA user_version = {number}; COMMIT;")

    def _unusable(self, error: sqlite3.Error) -> StoreError:
        code = _code(error)
        if code in _FULL:
            return StoreError(f"cannot write {self._path}: {error}: free space on its disk")
        if (advice := _FAILING.get(code & 0xFF)) is not None:
            return StoreError(f"cannot use {self._path}: {error}: {advice}")
        return self._damaged(str(error))

    def _damaged(self, why: str) -> StoreError:
        return StoreError(
            f"{self._path} is damaged ({printable_path(why)}), and no snapshot was touched: restore it from a backup, "
            "or move the whole directory away and pull the images again"
        )

    def broken(self, why: str) -> SnapshotError:
        """Return the error that a row is damaged."""
        return SnapshotError("DATA_LOSS", f"{self._path} is damaged: {printable_path(why)}: restore it from a backup")

    def _failed(self, error: sqlite3.Error) -> SnapshotError:
        code = _code(error)
        if code in _FULL:
            return SnapshotError("RESOURCE_EXHAUSTED", f"cannot write {self._path}: {error}: free space on its disk")
        if code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return self.broken(str(error))
        advice = _FAILING.get(code & 0xFF, "try again")
        return SnapshotError("UNAVAILABLE", f"cannot use {self._path}: {error}: {advice}")


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's extended code of an error; 0: it has none."""
    return getattr(error, "sqlite_errorcode", 0)
