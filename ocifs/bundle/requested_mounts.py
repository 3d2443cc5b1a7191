"""Parse the mounts that a user requests, in the notations of podman-run(1): `--volume`, `--mount` and `--tmpfs`.

A destination is an absolute path without `..`; where it leads in the image is for `mount_destinations` to check. The
source of a bind is an existing file or directory of the host. Every parser raises ValueError, which says what is wrong.
"""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from ocifs.bundle.paths import check_utf8, normalised
from ocifs.errors import printable_path

_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_ACCESS = (("rw", "ro"), ("suid", "nosuid"), ("dev", "nodev"), ("exec", "noexec"))
_BIND = (*_ACCESS, ("rbind", "bind"), _PROPAGATION)
"""Options that exclude each other; the first of each is the default, but `rprivate` of the propagations."""
_RELABEL = {"z", "Z"}
_IGNORED = {"cached", "consistent", "delegated", "notmpcopyup"}
"""Hints for Docker on other systems, and what ocifs does anyway."""
_LOCKED = ((os.ST_NOSUID, "suid"), (os.ST_NODEV, "dev"), (os.ST_NOEXEC, "exec"))
_TMPFS = {
    "size": re.compile(r"\d{1,15}[kmg%]?", re.IGNORECASE | re.ASCII),
    "mode": re.compile(r"[0-7]{1,4}"),
    "uid": re.compile(r"\d{1,10}", re.ASCII),
    "gid": re.compile(r"\d{1,10}", re.ASCII),
    "nr_inodes": re.compile(r"\d{1,15}[kmg]?", re.IGNORECASE | re.ASCII),
}
"""Values of tmpfs(5) and their forms."""
_OPEN_TO_ALL = "mode=1777"


class RequestedMount(msgspec.Struct, frozen=True, kw_only=True):
    """A mount in the container."""

    kind: Literal["bind", "tmpfs", "image"]
    destination: str
    """Normalised absolute path in the container."""
    source: str = ""
    """bind: an absolute path of the host; image: a reference."""
    options: tuple[str, ...] = ()
    """For config.json."""
    is_file: bool = False
    """Whether the source is not a directory."""
    relabel: bool = False
    """Whether an SELinux label is requested."""


def parse_volume(text: str) -> RequestedMount:
    """Parse `SRC:DST[:OPTION,…]`: bind SRC, an absolute path or one that begins with `./` or `../`, to DST."""
    parts = text.split(":")
    if len(parts) == 1:
        raise ValueError(f"{text!r} names no source: write SRC:DST, or --tmpfs {text} for an empty directory")
    if len(parts) > 3:
        raise ValueError(f"{text!r} has more than two colons: for a path with a colon use --mount type=bind,…")
    options = parts[2].split(",") if len(parts) == 3 else []
    return _bind(parts[0], parts[1], [each for each in options if each])


def parse_mount(text: str) -> RequestedMount:
    """Parse `type=bind|tmpfs|image,source=…,target=…[,OPTION…]`; a field with a comma can be quoted as in CSV."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise ValueError(f"{text!r} is not a list of fields: {error}") from None
    fields = [_field(each) for row in rows for each in row]
    kind = _take(fields, "type") or "volume"
    source = _take(fields, "source", "src") or ""
    destination = _take(fields, "target", "destination", "dst", "dest")
    if kind == "volume":
        raise ValueError("ocifs keeps no volumes: use type=bind, tmpfs or image, or `podman run --mount type=volume`")
    if kind not in {"bind", "tmpfs", "image"}:
        raise ValueError(f"type {kind!r} is not supported: use bind, tmpfs or image")
    if destination is None:
        raise ValueError(f"{text!r} names no target: add target=/PATH")
    if kind == "bind":
        propagation = _take(fields, "bind-propagation")
        return _bind(source, destination, [*_flags(fields), *([propagation] if propagation else [])])
    if kind == "tmpfs":
        if source:
            raise ValueError("a tmpfs has no source")
        values = [
            f"{name.removeprefix('tmpfs-')}={value}"
            for name, value in fields
            if value is not None and name.removeprefix("tmpfs-") in _TMPFS
        ]
        rest = [(name, value) for name, value in fields if name.removeprefix("tmpfs-") not in _TMPFS]
        return _tmpfs(destination, [*values, *_flags(rest)])
    return _image(source, destination, _flags(fields))


def parse_tmpfs(text: str) -> RequestedMount:
    """Parse `DST[:OPTION,…]`: an empty, writable directory in memory."""
    destination, _, options = text.partition(":")
    return _tmpfs(destination, [each for each in options.split(",") if each])


def refuse_duplicates(mounts: Iterable[RequestedMount]) -> None:
    """Refuse two mounts on one destination."""
    seen: set[str] = set()
    for mount in mounts:
        if mount.destination in seen:
            raise ValueError(f"{mount.destination} is the destination of two mounts: leave one out")
        seen.add(mount.destination)


def _bind(source: str, destination: str, options: Sequence[str]) -> RequestedMount:
    if not source:
        raise ValueError("the source is missing: name a file or directory of the host")
    if not source.startswith("/") and source.split("/", maxsplit=1)[0] not in {".", ".."}:
        raise ValueError(
            f"{source!r} would be a named volume, which ocifs does not keep: for a directory write ./{source}, "
            "or use `podman run -v`"
        )
    path = os.path.abspath(source)
    check_utf8(path)
    try:
        is_file = not os.path.isdir(path)
        os.stat(path)
        flags = os.statvfs(path).f_flag
    except OSError as error:
        raise ValueError(f"{printable_path(source)}: {error.strerror}") from None
    chosen = _choose(options, _BIND)
    inherited = [f"no{name}" for flag, name in _LOCKED if flags & flag and name not in chosen]
    defaults = [] if any(each in chosen for each in _PROPAGATION) else ["rprivate"]
    if "bind" not in chosen and "rbind" not in chosen:
        defaults.insert(0, "rbind")
    return RequestedMount(
        kind="bind",
        source=path,
        destination=_destination(destination),
        options=tuple(dict.fromkeys([*defaults, *chosen, *inherited])),
        is_file=is_file,
        relabel=bool(_RELABEL & set(options)),
    )


def _tmpfs(destination: str, options: Sequence[str]) -> RequestedMount:
    values = []
    for option in options:
        name, equals, value = option.partition("=")
        if equals:
            if name not in _TMPFS:
                raise ValueError(f"option {option!r} is not one of tmpfs: {', '.join(_TMPFS)}")
            if not _TMPFS[name].fullmatch(value):
                raise ValueError(f"{value!r} is not a value for {name}")
            values.append(option)
    chosen = _choose([each for each in options if "=" not in each], _ACCESS)
    safe = [f"no{name}" for name in ("suid", "dev") if name not in chosen]
    if not any(each.startswith("mode=") for each in values):
        values.append(_OPEN_TO_ALL)
    return RequestedMount(
        kind="tmpfs",
        destination=_destination(destination),
        options=tuple(dict.fromkeys([*safe, *chosen, *values])),
    )


def _image(source: str, destination: str, options: Sequence[str]) -> RequestedMount:
    if not source:
        raise ValueError("the source is missing: name an image")
    if any(each not in {"ro", "notmpcopyup"} for each in options):
        raise ValueError(f"option {options[0]!r} is not one of type=image: an image is mounted read-only")
    safe = ("rbind", "rprivate", "ro", "nosuid", "nodev")
    return RequestedMount(kind="image", source=source, destination=_destination(destination), options=safe)


def _choose(options: Sequence[str], groups: Sequence[Sequence[str]]) -> list[str]:
    """Return the options, each of another group, without those that have no effect."""
    chosen: list[str] = []
    for option in options:
        if option in _IGNORED or option in _RELABEL:
            continue
        group = next((each for each in groups if option in each), None)
        if group is None:
            known = ", ".join(each for group in groups for each in group)
            raise ValueError(f"option {option!r} is not supported: use {known}; or `podman run`, which has others")
        if other := next((each for each in chosen if each in group and each != option), None):
            raise ValueError(f"options {other} and {option} exclude each other")
        chosen.append(option)
    return chosen


def _destination(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"destination {path!r} is not an absolute path without '..'")
    check_utf8(path)
    if normalised(path) == "/":
        raise ValueError("the destination / would hide the whole image")
    return normalised(path)


def _field(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    return name.strip().lower(), value if equals else None


def _take(fields: list[tuple[str, str | None]], *names: str) -> str | None:
    """Remove the field with one of the names, and return its value."""
    found = [each for each in fields if each[0] in names]
    if len(found) > 1:
        raise ValueError(f"{found[1][0]} occurs twice")
    for each in found:
        fields.remove(each)
        if not each[1]:
            raise ValueError(f"{each[0]} has no value")
        return each[1]
    return None


def _flags(fields: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return fields such as `readonly`, `ro=true` and `rw=false` as mount options."""
    options = []
    for name, value in fields:
        option = {"readonly": "ro", "readwrite": "rw", "bind-nonrecursive": "bind"}.get(name, name)
        if option == "relabel" and value in {"shared", "private"}:
            options.append("z")
        elif value is None or value.lower() in {"true", "1"}:
            options.append(option)
        elif value.lower() in {"false", "0"} and option in {"ro", "rw", "bind"}:
            options += {"ro": ["rw"], "rw": ["ro"], "bind": []}[option]
        else:
            raise ValueError(f"{name}={value} is not supported")
    return options
