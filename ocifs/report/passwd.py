"""User and group names of an image, from its own /etc/passwd and /etc/group; never from the host's."""

from ocifs.errors import NotFoundError, printable_path
from ocifs.image.rootfs import Rootfs

_MAX_SIZE = 4 << 20


def number_of(rootfs: Rootfs, name: str, *, group: bool) -> int:
    """Return the uid of a user, or the gid of a `group`.

    Raises:
        NotFoundError: The image has no such name.
    """
    path = "/etc/group" if group else "/etc/passwd"
    wanted = name.encode(errors="surrogateescape")
    with rootfs.open(path) as file:
        for line in file.read(_MAX_SIZE).splitlines():
            fields = line.split(b":")
            if len(fields) > 2 and fields[0] == wanted and fields[2].isdigit():
                return int(fields[2])
    what = "group" if group else "user"
    raise NotFoundError(f"the image has no {what} '{printable_path(name)}' in {path}")
