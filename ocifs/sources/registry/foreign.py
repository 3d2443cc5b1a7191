"""A blob at a URL that the image itself names (image-spec descriptor.md, `urls`), where the user allows that.

Whoever makes an image chooses the URL, so it must not reach what only this machine does: HTTPS only, also along
redirects, no proxy, no credentials, and no address that is private, local or anything but public; the address that is
connected to is looked at, whatever DNS says of the name before or after.
"""

import ipaddress
import socket
from collections.abc import Iterable, Mapping

from ocifs.errors import RegistryError
from ocifs.sources.registry.peer import Peer
from ocifs.sources.registry.session import RegistryResponse, Session
from ocifs.sources.registry.tls import make_context
from ocifs.sources.registry.transport import HttpsConnection, HttpsPool, Transport
from ocifs.sources.registry.url import parse_url

_MOST = 8
"""URLs of one descriptor that are tried."""

_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses by NAT64, private ones among them (RFC 6052)."""


def foreign_peers(urls: Iterable[str]) -> list[Peer]:
    """Return the URLs that may be asked."""
    peers: list[Peer] = []
    for text in urls:
        try:
            url = parse_url(text, "the image names")
        except RegistryError:
            continue
        if url.scheme == "https" and not url.userinfo and len(peers) < _MOST:
            host = url.authority
            peers.append(Peer(host=host, address=host, repository="", plain_http=False, scheme="https", url=str(url)))
    return peers


def is_public(address: str) -> bool:
    """Whether everybody can reach an IP address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None or ip in _TRANSLATED:
            return False
    return ip.is_global and not ip.is_multicast


class ForeignSession(Session):
    """What asks one such URL, of a peer that has one."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer, transport=_PublicTransport(make_context(peer.certificates), proxies=False))

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        what: str,
        actions: str = "pull",
        body: bytes | None = None,
    ) -> RegistryResponse:
        """Ask once, whatever the path is; raises as `Session.get`."""
        last, response = self._follow(method, parse_url(self._peer.url or "", "the image names"), headers, body)
        if response.status in {200, 206}:
            return RegistryResponse(response, last.authority)
        response.close()
        raise self._failure(response, "", last, what)


class _PublicConnection(HttpsConnection):
    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        if not is_public(connected.getpeername()[0]):  # nothing has been sent yet
            connected.close()
            raise RegistryError(f"{self.host}, which the image names, is no public address: refused")
        return connected


class _PublicPool(HttpsPool):
    ConnectionCls = _PublicConnection


class _PublicTransport(Transport):
    pools = {"https": _PublicPool}  # noqa: RUF012 - as the base has it
