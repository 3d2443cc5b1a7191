"""The ids of a rootless podman: the user is root in its containers, and subordinate ids follow (subuid(5))."""

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from ocifs.errors import StoreError, UnsupportedError, printable_path
from ocifs.imagestore.records import IdRanges

OVERFLOW = 65534
"""The owner of files whose owner in the image has no id on this machine."""
_MAX_FILE = 1 << 20
_ID_MAX = (1 << 32) - 2


def ranges_of(user: str | None, kind: str, etc: Path = Path("/etc")) -> IdRanges:
    """Return the ranges of a user, by name or number; None is the user of this process.

    Raises:
        UnsupportedError: There is no such user, or it has no subordinate ids.
        StoreError: A file cannot be read.
    """
    try:
        if user is None:
            account = pwd.getpwuid(os.geteuid())
        else:
            account = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise UnsupportedError(f"there is no user {printable_path(user or str(os.geteuid()))}") from None
    names = {account.pw_name, str(account.pw_uid)}
    maps = []
    for file, own in (("subuid", account.pw_uid), ("subgid", account.pw_gid)):
        subordinate = [*_subordinate(etc / file, names)]
        if not subordinate:
            raise UnsupportedError(
                f"user {printable_path(account.pw_name)} has no subordinate ids in {etc / file}: add some with "
                f"`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {printable_path(account.pw_name)}`"
            )
        ranges, first = [(0, own, 1)], 1
        for start, count in subordinate:
            ranges.append((first, start, count))
            first += count
        maps.append(tuple(ranges))
    return IdRanges(account.pw_name, kind, maps[0], maps[1])


def _subordinate(file: Path, names: Iterable[str]) -> Iterable[tuple[int, int]]:
    """Yield (first id, count) of each line for one of the names."""
    try:
        with file.open("rb") as lines:
            text = lines.read(_MAX_FILE)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}") from None
    for line in text.decode(errors="replace").splitlines():
        name, _, rest = line.strip().partition(":")
        start, _, count = rest.partition(":")
        if name in names and start.isdecimal() and count.isdecimal() and 0 < int(count) <= _ID_MAX - int(start):
            yield int(start), int(count)
