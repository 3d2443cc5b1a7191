"""A blob at a URL that the image itself names (image-spec descriptor.md, `urls`), where the user allows that.

The author of an image chooses the URL, so it must not reach what only this machine can reach. It is fetched by HTTPS
only, also along redirects, without proxy and credentials, and from public addresses only. The check is on the address
that the socket is connected to, so DNS cannot change it.
"""

import ipaddress
import socket
from collections.abc import Iterable, Mapping

from ocifs.errors import RegistryError
from ocifs.sources.registry.peer import Peer
from ocifs.sources.registry.session import RegistryResponse, Session
from ocifs.sources.registry.timeouts import Timeouts
from ocifs.sources.registry.tls import make_context
from ocifs.sources.registry.transport import HttpsConnection, HttpsPool, HttpTransport
from ocifs.sources.registry.url import parse_url

_MOST = 8
"""Most URLs of one descriptor that are tried."""

_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses through NAT64, private ones among them (RFC 6052)."""


def foreign_peers(urls: Iterable[str], timeouts: Timeouts) -> list[Peer]:
    """Return the URLs that may be fetched."""
    peers: list[Peer] = []
    for text in urls:
        try:
            url = parse_url(text, "the image names")
        except RegistryError:
            continue
        if url.scheme == "https" and not url.userinfo and len(peers) < _MOST:
            host = url.authority
            peers.append(
                Peer(
                    host=host,
                    address=host,
                    repository="",
                    plain_http=False,
                    scheme="https",
                    url=str(url),
                    timeouts=timeouts,
                )
            )
    return peers


def is_public(address: str) -> bool:
    """Return whether an IP address is public."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None or ip in _TRANSLATED:
            return False
    return ip.is_global and not ip.is_multicast


class ForeignSession(Session):
    """A session for one such URL."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(
            peer, transport=_PublicTransport(make_context(peer.certificates), peer.timeouts, proxies=False)
        )

    def get(self, path: str, headers: Mapping[str, str], *, what: str) -> RegistryResponse:
        """Request the peer's URL once, whatever `path` is; raises as `Session.get`."""
        last, response = self._follow("GET", parse_url(self._peer.url or "", "the image names"), headers, None)
        if response.status in {200, 206}:
            return RegistryResponse(response, last.authority, self.timeouts)
        response.close()
        raise self._failure(response, "", last, what)


class _PublicConnection(HttpsConnection):
    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        if not is_public(connected.getpeername()[0]):  # nothing has been sent yet
            connected.close()
            raise RegistryError(f"{self.host}, which the image names, has no public address: refused")
        return connected


class _PublicPool(HttpsPool):
    ConnectionCls = _PublicConnection


class _PublicTransport(HttpTransport):
    pools = {"https": _PublicPool}  # noqa: RUF012 - as the base has it
