"""The mark of a published LayerIndex in the cache that was verified against its layer.

It is an extended attribute of the file, so only the owner of the cache can set it. All processes that have opened the
file see it at once.
"""

import contextlib
import os

from ocifs.layer.index import LayerIndex

_MARK = "user.ocifs.verified"


def mark_verified(index: LayerIndex) -> None:
    """Mark an index as verified, if the file system can."""
    with contextlib.suppress(OSError):
        os.setxattr(index.file.fd, _MARK, str(index.summary.blob_digest).encode())


def is_marked(index: LayerIndex) -> bool:
    """Return whether an index was marked as verified."""
    try:
        return os.getxattr(index.file.fd, _MARK) == str(index.summary.blob_digest).encode()
    except OSError:
        return False
