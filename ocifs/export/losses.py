"""What an export has otherwise than the image: counted by kind, with the first example of each, never silent."""

from collections.abc import Iterator
from enum import Enum

from ocifs.errors import printable


class Loss(Enum):
    """A way in which an export may differ from the image, as words before a number."""

    OWNER = "files that belong to you instead of the image's owners, which only root can give them"
    RECORD = "files whose owner the file system has no place to record"
    SET_ID = "files that are not setuid or setgid, since they lack the image's owner"
    MODE = "files whose mode the file system refuses"
    XATTR = "extended attributes that the system refuses"
    DEVICE = "devices left out, which only root can make"
    PLACEHOLDER = "devices that are empty files instead"
    WHITEOUT = "character devices 0:0, which overlayfs over the directory takes for files that are removed"
    SOCKET = "sockets left out, which tar does not know"


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

    def messages(self) -> Iterator[str]:
        """Give a line for each kind."""
        for loss, count, first in self:
            yield f"{loss.value}: {count}, the first is {printable(first)}"
