"""A tree as a user sees it, as lines: every name with its attributes, and every file with its digest."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

# The link count and size of a directory are each file system's own.
_LIST = r"""
find . -type d -printf '%P %y %m %U %G %T@\0' -o -printf '%P %y %m %n %U %G %s %T@ %l\0'
find . -type f -readable -name "$1" -print0 | xargs -0 -n 2000 sha256sum -z
"""


def view(
    directory: Path, become: Sequence[str] = (), *, within: Sequence[str] = (), read: str = "*"
) -> frozenset[bytes]:
    """Return what is seen of a directory, after `become` has run; `within` runs only in the directory.

    So `become` another user to see what a mount shows it, and do so `within` where the way there is closed to it. Only
    files whose names match the pattern `read` are read.
    """
    enter = [*(become or ["env"]), "-C", str(directory)]
    seen = subprocess.run([*enter, *within, "sh", "-c", _LIST, "sh", read], capture_output=True, check=False)
    assert seen.stdout
    return frozenset(seen.stdout.split(b"\0"))
