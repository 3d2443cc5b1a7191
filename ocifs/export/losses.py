"""What of an image could not be made in an export: counted by kind, with the first example of each, never silent."""

from collections.abc import Iterator
from enum import Enum


class Loss(Enum):
    """A way in which files of an export may differ from the image, as the end of a sentence."""

    OWNER = "belong to you, not to whom the image says: only root may give files away"
    RECORD = "have no record of their owner: the file system takes none for such files"
    SET_ID = "are not setuid or setgid, as they do not have the image's owner"
    MODE = "have another mode than in the image: the file system refuses it"
    XATTR = "lack extended attributes: the system refuses them"
    DEVICE = "are left out: only root may make devices"
    SOCKET = "are left out: tar has no sockets"
    PLACEHOLDER = "are empty files in place of devices"


class Losses:
    """Collects losses."""

    def __init__(self) -> None:
        self._found: dict[Loss, tuple[int, bytes]] = {}

    def add(self, loss: Loss, path: bytes) -> None:
        """Note one."""
        count, first = self._found.get(loss, (0, path))
        self._found[loss] = count + 1, first

    def __iter__(self) -> Iterator[tuple[Loss, int, bytes]]:
        """Give each kind found, how many files it concerns, and the path of the first."""
        for loss, (count, first) in self._found.items():
            yield loss, count, first
