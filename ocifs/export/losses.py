"""What an export could not reproduce: counted by kind, with the first example of each."""

from collections.abc import Iterator
from enum import Enum

from ocifs.errors import printable


class Loss(Enum):
    """How an exported file may differ from the image."""

    OWNER = "owned by you instead (chown needs root)"
    RECORD = "without a record of its owner (not supported by the file system)"
    SET_ID = "not setuid or setgid (the owner could not be set)"
    MODE = "with another mode (refused by the system)"
    XATTR = "without an extended attribute (refused by the system)"
    DEVICE = "left out (mknod needs root)"
    PLACEHOLDER = "an empty file instead of a device"
    WHITEOUT = "a character device 0:0 (a whiteout to overlayfs)"
    SOCKET = "left out (tar has no sockets)"


class Losses:
    """Collects losses."""

    def __init__(self) -> None:
        self._found: dict[Loss, tuple[int, bytes]] = {}

    def add(self, loss: Loss, path: bytes) -> None:
        """Record one loss."""
        count, first = self._found.get(loss, (0, path))
        self._found[loss] = count + 1, first

    def __iter__(self) -> Iterator[tuple[Loss, int, bytes]]:
        """Yield each kind with the number of files and the path of the first."""
        for loss, (count, first) in self._found.items():
            yield loss, count, first

    def messages(self) -> Iterator[str]:
        """Yield a line for each kind."""
        for loss, count, first in self:
            others = f" and {count - 1} other files" if count > 2 else " and 1 other file" if count == 2 else ""
            yield f"{printable(first)}{others}: {loss.value}"
