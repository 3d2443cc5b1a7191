"""Endpoints and the location of blobs, as values that can be sent to another process.

The receiver needs neither the configuration files nor permission to read them. It looks at paths only when a registry
refuses the credentials in the value, which may have expired (`CredentialLookup`). The values contain secrets: they are
never written to a file, and their `repr` shows none.
"""

import os
from binascii import b2a_base64

import msgspec

from ocifs.errors import InvalidImageError
from ocifs.sources.registry.timeouts import DEFAULT_TIMEOUTS, Timeouts


class NoRangesError(InvalidImageError):
    """The registry does not support range requests."""


class Credentials(msgspec.Struct, frozen=True):
    """A user name with a password, or a token that replaces both."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        """Show no secret."""
        return "Credentials(…)"

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header (RFC 7617)."""
        return "Basic " + b2a_base64(os.fsencode(f"{self.username}:{self.password}"), newline=False).decode()


class KeychainEntry(msgspec.Struct, frozen=True):
    """Credentials that the snapshotter keeps from the last pull."""

    socket: str
    """Absolute path (`ocifs.sources.registry.keychain`)."""
    name: str
    """`HOST[:PORT]/REPOSITORY` of the image in the pull."""


class CredentialLookup(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look for other credentials of an endpoint, once the registry refuses those that were found at first."""

    host: str
    """`HOST[:PORT]`."""
    repository: str
    files: tuple[str, ...]
    """Absolute paths of files that may exist, in the order of their precedence."""
    is_named: bool = False
    """Whether the user has named the file, so that it must be readable."""
    keychain: KeychainEntry | None = None
    """What is asked before the files are read."""
    environment: tuple[tuple[str, str], ...] = ()
    """HOME and PATH for credential helpers: those of the command."""


class Certificates(msgspec.Struct, frozen=True):
    """Trusted CAs and client certificates, each as (name in errors, PEM text)."""

    verify: bool = True
    authorities: tuple[tuple[str, str], ...] = ()
    """CAs, in addition to those of the system."""
    clients: tuple[tuple[str, str], ...] = ()
    """Certificate and key in one text."""

    def __repr__(self) -> str:
        """Show no key."""
        return f"Certificates(verify={self.verify})"


CAPABILITIES = frozenset(("pull", "resolve", "push"))
"""The permitted uses of an endpoint: to fetch by digest, to resolve tags, to write."""


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of an endpoint in containerd's hosts.toml."""

    root: str = "/v2"
    """Path in front of the repository."""
    http_only: bool = False
    """Never try TLS."""
    namespace: str = ""
    """The registry whose images a mirror has, sent as the parameter `ns`; empty: the endpoint is that registry."""
    capabilities: frozenset[str] = CAPABILITIES
    headers: tuple[tuple[str, str], ...] = ()
    """Headers of each request to the endpoint, but not to the targets of its redirects."""
    connect: float | None = None
    """Seconds in which a connection must succeed; None: those of `Timeouts`."""
    proxy: str = ""
    """URL of a proxy, instead of one that the environment names."""

    def __repr__(self) -> str:
        """Show no header and no proxy, which may contain secrets."""
        capabilities = sorted(self.capabilities)
        return f"EndpointSettings(root={self.root!r}, namespace={self.namespace!r}, {capabilities=})"


class FileVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The version of a file, as described by the web server."""

    size: int | None
    """Bytes, if the server states them."""
    etag: str = ""
    modified: str = ""
    """The Last-Modified header as sent."""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint of a registry."""

    host: str
    """`HOST[:PORT]`."""
    address: str
    """`HOST[:PORT]` to connect to."""
    repository: str
    plain_http: bool
    """Whether plain HTTP is acceptable."""
    certificates: Certificates = Certificates()
    scheme: str | None = None
    """`http` or `https`; None: not known yet."""
    credentials: Credentials | None = None
    lookup: CredentialLookup | None = None
    """None: there are no others."""
    url: str | None = None
    """URL of one blob, named by the image, or of a file; then only it is requested, and `repository` is empty."""
    file: FileVersion | None = None
    """The version of the file at `url`, which the user has named; None: `url` is that of a blob."""
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    settings: EndpointSettings = EndpointSettings()

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}"


class BlobOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """The location of a blob."""

    peers: tuple[Peer, ...]
    """In the order in which to try them."""
    path: str
    """Relative to the repository."""
    digest: str
    size: int
    """Bytes."""
    offset: int = 0
    """Where the blob begins in the file at the URL of the peer."""
