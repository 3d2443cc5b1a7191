"""Find a program that reaps zombies and forwards signals, as PID 1 of a container.

It must be linked statically: it runs with the image's libraries, or none.
"""

import os
import shutil

from ocifs.errors import NotFoundError

DESTINATION = "/dev/ocifs-init"
"""Path in the container, where nothing of the image is."""
_NAMES = ("catatonit", "tini-static", "docker-init")
_DIRECTORIES = (
    "/usr/libexec/podman",
    "/usr/lib/podman",
    "/usr/libexec/catatonit",
    "/usr/libexec/docker",
    "/usr/lib/docker",
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
)


def find_init(directories: tuple[str, ...] = _DIRECTORIES) -> str:
    """Return the path of the first known one. Raises NotFoundError."""
    path = os.pathsep.join(directories)
    for name in _NAMES:
        if found := shutil.which(name, path=path):
            return found
    raise NotFoundError(
        "--init needs catatonit or tini-static, and neither is installed: install the Debian package catatonit or tini"
    )
