"""Resource limits for images: every limit that a user can set, by its name.

Code checks them before it spends memory, disk or time on a count or size from an image, and reports them in one form
of message. Bounds of Linux or of a format are not listed: raising them would have no effect.
"""

import threading
from collections.abc import Hashable

import msgspec

from ocifs.errors import LimitError

_COUNTS = frozenset(
    {"indexes", "layers", "members", "ratio", "entries", "image_entries", "sparse_pieces", "symlink_steps", "volumes"}
)
"""The limits that are not in bytes."""
_UNITS = ("", "KiB", "MiB", "GiB", "TiB")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits; sizes are in bytes. Raise them for an image that you trust."""

    document: int = 4 << 20
    """A manifest, image index, config, `index.json` or `manifest.json`; the distribution spec's bound for manifests."""
    indexes: int = 64
    """Image indexes read to find an image."""
    layers: int = 500
    """Layers of an image."""
    members: int = 100_000
    """Members of an archive of images."""
    spool: int = 32 << 30
    """An archive that is copied as a whole: from standard input, a web server or a Docker engine."""
    uncompressed: int = 64 << 30
    """The tar stream of a layer."""
    image_uncompressed: int = 256 << 30
    """The tar streams of all layers of an image."""
    ratio: int = 2000
    """Size of the tar stream divided by that of the blob."""
    ratio_from: int = 64 << 20
    """Size of the tar stream above which `ratio` is checked."""
    zstd_window: int = 128 << 20
    """The window of a zstd frame, which its decoder keeps in memory; the default of zstd itself."""
    entries: int = 5_000_000
    """Entries of a layer."""
    image_entries: int = 10_000_000
    """Entries of all layers of an image, and the directories that they imply."""
    image_toc: int = 1 << 30
    """TOCs of all layers of an image as MessagePack; names, link targets and attributes of their entries."""
    paths: int = 1 << 30
    """All paths of the merged tree together. Chains of symlinks can create paths of any length."""
    extended_header: int = 1 << 20
    """One extended header of a tar (pax or GNU long name)."""
    extended_headers: int = 64 << 20
    """All extended headers of a layer."""
    toc: int = 128 << 20
    """The TOC in a layer (eStargz, zstd:chunked), both as stored and as JSON."""
    xattrs: int = 64 << 10
    """Extended attributes of one entry, names and values; a tree image can store up to 256 KiB."""
    sparse_pieces: int = 1_000_000
    """Pieces of all sparse files of a layer."""
    accounts: int = 4 << 20
    """`/etc/passwd` and `/etc/group` of an image, each."""
    volumes: int = 100
    """Volumes of an image, for a container."""
    volume_size: int = 4 << 30
    """All files in the volumes of an image, if ocifs has to copy them."""
    symlink_steps: int = 1 << 26
    """Names from symlink targets resolved while layers are applied; without it, a few entries could take days."""
    output: int = 256 << 30
    """Bytes of an export: files with their headers, without holes."""
    output_headers: int = 1 << 30
    """Extended headers of an exported tar; each repeats the full path of its member."""

    def decoded_total(self) -> "Total":
        """Return a total of the uncompressed bytes of all layers of an image."""
        what = f"the layers of the image inflate to more than {self.image_uncompressed} bytes"
        return Total(self, "image_uncompressed", what)

    def passed(self, name: str, what: str) -> LimitError:
        """Return the error that `what` exceeds the limit `name`."""
        return LimitError(f"{what}: over the limit {self.setting(name)}; if you trust the image, raise it with --limit")

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """Return the meaning of each limit: the first clause of its docstring, from the source of this module."""
        import inspect
        import re

        return dict(re.findall(r'^ +(\w+): int = .*\n +"""(.+?)[.;](?: |"""|$)', inspect.getsource(cls), re.MULTILINE))

    def setting(self, name: str) -> str:
        """Return a limit in the form of `--limit`: `document=4MiB`, `entries=5000000`."""
        value: int = getattr(self, name)
        return f"{name.replace('_', '-')}={value if name in _COUNTS else in_units(value)}"


DEFAULT_LIMITS = Limits()


class Total:
    """A total over the parts of an image, checked against one limit as it grows. Safe for several threads."""

    def __init__(self, limits: Limits, name: str, what: str) -> None:
        """Start at 0. The error message begins with `what`, and names the limit `name`."""
        self._limits = limits
        self._name = name
        self._what = what
        self._most: int = getattr(limits, name)
        self._parts: dict[Hashable, int] = {}
        self._sum = 0
        self._lock = threading.Lock()

    def grow(self, part: Hashable, amount: int) -> None:
        """Set the amount of `part` to `amount`, unless it is larger already. Raises LimitError."""
        with self._lock:
            previous = self._parts.get(part, 0)
            if amount > previous:
                self._parts[part] = amount
                self._sum += amount - previous
        if self._sum > self._most:
            raise self._limits.passed(self._name, self._what)


def in_units(value: int) -> str:
    """Return a number of bytes as an integer of the largest possible unit: `64GiB`."""
    power = 0
    while value and value % 1024 == 0 and power < len(_UNITS) - 1:
        value //= 1024
        power += 1
    return f"{value}{_UNITS[power]}"
