"""HTTP URLs from outside: from a registry, an image, a file or the environment.

`parse_url` is the only parser of URLs. Its result can be sent as it is: the host is valid for DNS, the port is valid,
and the target has no control characters. Any other input is a `RegistryError`, so a malformed URL cannot end a thread
or a command in another way. It knows nothing of connections.
"""

import ipaddress
import re
from typing import Self
from urllib.parse import quote, urljoin

import msgspec

from ocifs.errors import RegistryError
from ocifs.spec.document import shown

_MAX = 64 << 10
"""Most characters, the same as of a header line."""
_PORTS = {"http": 80, "https": 443}
_URL = re.compile(
    r"(https?)://(?:([^/?#\\]*)@)?(\[[^][/?#@]*\]|[^][:/?#@]*)(?::([^][:/?#@]*))?((?:[/?][^#]*)?)(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
_PORT = re.compile(r"0{0,9}[1-9][0-9]{0,4}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"(?=.{1,253}\.?\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)
_SENT_AS_IT_IS = "".join(map(chr, range(0x21, 0x7F)))


class Url(msgspec.Struct, frozen=True):
    """An absolute HTTP URL."""

    scheme: str
    """`http` or `https`."""
    host: str
    """A name in lower case, an IPv4 address, or an IPv6 address in brackets."""
    port: int
    """1 to 65535."""
    target: str = "/"
    """Path and query."""
    userinfo: str = ""
    """`USER[:PASSWORD]`, which is never sent with the URL."""

    @property
    def authority(self) -> str:
        """`HOST`, or `HOST:PORT` if the port is not the scheme's: the server's name in messages."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """The scope of credentials (RFC 6454)."""
        return self.scheme, self.host, self.port

    def with_query(self, query: str) -> Self:
        """Return the URL with an addition to its query, which must be encoded."""
        return msgspec.structs.replace(self, target=f"{self.target}{'&' if '?' in self.target else '?'}{query}")

    def follow(self, reference: str, what: str) -> "Url":
        """Resolve a URL reference in a header of a response from this URL (RFC 3986, section 5).

        `what` begins the error. `reference` is decoded as http.client decodes a header: a character for each byte.

        Raises:
            RegistryError: It is malformed, or leads from HTTPS to HTTP.
        """
        try:
            absolute = (
                "" if _CONTROL.search(reference) else urljoin(str(self), reference)
            )  # urljoin would remove some control characters
        except ValueError:
            absolute = ""
        if not absolute:
            raise RegistryError(f"{what} an unusable URL: it is malformed")
        url = parse_url(absolute, what, encoding="latin-1")
        if url.scheme == "http" and self.scheme == "https":
            raise RegistryError(f"{what} {url.authority} without encryption: refused")
        return url

    def __str__(self) -> str:
        """Return the URL to send, without `userinfo`."""
        return f"{self.scheme}://{self.authority}{self.target}"

    def __repr__(self) -> str:
        """Omit credentials, and the query, which may contain a signature."""
        return f"Url({self.scheme}://{self.authority}{self.target.partition('?')[0]})"


def parse_url(text: str, what: str, *, encoding: str = "utf-8") -> Url:
    """Parse an absolute HTTP URL; `what` begins the error, as in `HOST redirects to`.

    Characters outside RFC 3986 are percent-encoded in `encoding`, as Go does.

    Raises:
        RegistryError: It is not such a URL. The message contains nothing of it but its port.
    """
    match = _URL.fullmatch(text) if len(text) <= _MAX and not _CONTROL.search(text) else None
    if match is None:
        raise RegistryError(f"{what} an unusable URL: it is not http://HOST or https://HOST")
    scheme, userinfo, host, port, target = match.groups()
    scheme = scheme.lower()
    if not _is_host(host):
        raise RegistryError(f"{what} an unusable URL: its host is neither a name nor an address")
    if port and not (_PORT.fullmatch(port) and int(port) < 1 << 16):
        raise RegistryError(f"{what} an unusable URL: port {shown(port, 10)} is not a number from 1 to 65535")
    target = target if target.startswith("/") else f"/{target}"
    try:
        encoded = quote(target, safe=_SENT_AS_IT_IS, encoding=encoding, errors="surrogateescape")
    except ValueError:
        raise RegistryError(f"{what} an unusable URL: it has characters that cannot be encoded") from None
    return Url(scheme, host.lower(), int(port) if port else _PORTS[scheme], encoded, userinfo or "")


def _is_host(host: str) -> bool:
    if not host.startswith("["):
        return _NAME.fullmatch(host) is not None
    address, percent, zone = host[1:-1].replace("%25", "%", 1).partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return not percent or _ZONE.fullmatch(zone) is not None
