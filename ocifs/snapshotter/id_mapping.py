"""The labels by which containerd requests a snapshot in a user namespace (containerd 2, and 1.7 for some clients).

The writes belong to the mapped root. containerd maps the lower directories itself, by idmapped mounts, when it finds
the options `uidmap` and `gidmap` on an overlay. The EROFS mounts of ocifs allow that, its FUSE mounts do not.
containerd 2.1 maps one mount only, so an image with unpacked layers on it cannot be mapped.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from ocifs.id_ranges import IdRange, mapped
from ocifs.snapshotter.directories import Owner
from ocifs.snapshotter.status import SnapshotError

_UIDS: Final = "containerd.io/snapshot/uidmapping"
_GIDS: Final = "containerd.io/snapshot/gidmapping"
_RANGE: Final = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,10})", re.ASCII)
_ID_MAX: Final = (1 << 32) - 1


class UserNamespace(NamedTuple):
    """The IDs of a user namespace."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]
    labels: tuple[str, str]

    def shift(self, owner: Owner) -> Owner:
        """Return the ID on the host of an owner in the container. Raises SnapshotError."""
        return owner._replace(uid=_outside(self.uids, owner.uid), gid=_outside(self.gids, owner.gid))

    def options(self) -> tuple[str, str]:
        """Return the mount options that containerd reads."""
        return f"uidmap={self.labels[0]}", f"gidmap={self.labels[1]}"


def id_mapping(labels: Mapping[str, str]) -> UserNamespace | None:
    """Return the mapping that the labels of a snapshot request; None: none.

    Raises:
        SnapshotError: A label is malformed, or one of the two is missing.
    """
    uids, gids = labels.get(_UIDS), labels.get(_GIDS)
    if not uids and not gids:
        return None
    if not uids or not gids:
        raise SnapshotError("INVALID_ARGUMENT", f"the labels {_UIDS} and {_GIDS} need each other")
    return UserNamespace(_ranges(_UIDS, uids), _ranges(_GIDS, gids), (uids, gids))


def _ranges(label: str, text: str) -> tuple[IdRange, ...]:
    ranges = []
    for each in text.split(","):
        match = _RANGE.fullmatch(each)
        inside, outside, count = map(int, match.groups()) if match else (0, 0, 0)
        if not count or max(inside, outside) + count - 1 > _ID_MAX:
            raise SnapshotError("INVALID_ARGUMENT", f"label {label}: expected INSIDE:OUTSIDE:COUNT,…")
        ranges.append((inside, outside, count))
    return (*ranges,)


def _outside(ranges: tuple[IdRange, ...], number: int) -> int:
    if (found := mapped(number, ranges)) is None:
        raise SnapshotError(
            "FAILED_PRECONDITION",
            f"the ID mapping of the snapshot lacks {number}, which owns the root: if containerd has made a copy with "
            'other owners, write capabilities = ["remap-ids"] in its [proxy_plugins.ocifs]',
        )
    return found
