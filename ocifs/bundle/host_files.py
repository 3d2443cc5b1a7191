"""The files that a container engine supplies: /etc/hostname, /etc/hosts and, on the host's network, /etc/resolv.conf.

The contents are copies: the container may change them without an effect on the host.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

_ETC = Path("/etc")
_MAX = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_HOST_NAME_MAX = 64
"""HOST_NAME_MAX of Linux."""
_LOOPBACK = b"127.0.0.1\tlocalhost\n::1\tlocalhost\n"


def parse_hostname(text: str) -> str:
    """Return a host name that sethostname(2) and /etc/hosts take. Raises ValueError."""
    if len(text) > _HOST_NAME_MAX or not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a host name: 1 to {_HOST_NAME_MAX} letters, digits, '-' and '.'")
    return text


def parse_added_host(text: str) -> tuple[str, str]:
    """Parse `NAME:ADDRESS` or `NAME=ADDRESS`; return (address, name). Raises ValueError."""
    name, _, address = text.replace("=", ":", 1).partition(":")
    if not _NAME.fullmatch(name) or not address:
        raise ValueError(f"{text!r} is not NAME:ADDRESS")
    import ipaddress

    try:
        return str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))), name
    except ValueError:
        raise ValueError(f"{address!r} is not an IP address: write NAME:ADDRESS") from None


def host_files(
    network: Literal["none", "host"], hostname: str, added: Sequence[tuple[str, str]], etc: Path = _ETC
) -> dict[str, bytes]:
    """Return the contents of the files by path."""
    own = [*added, ("127.0.1.1", hostname)]
    lines = b"".join(f"{address}\t{name}\n".encode() for address, name in own)
    files = {"/etc/hostname": f"{hostname}\n".encode(), "/etc/hosts": _LOOPBACK + lines}
    if network == "host":
        files["/etc/hosts"] = lines + (_read(etc / "hosts") or _LOOPBACK)
        if (resolvers := _read(etc / "resolv.conf")) is not None:
            files["/etc/resolv.conf"] = resolvers
    return files


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX)
    except OSError:
        return None
