"""What is needed to speak to an endpoint, and to find a blob there, as values: another process can be given them.

Nothing in them is a path, so whoever has one needs neither the files of the configuration nor the right to read them.
They hold secrets: they are never written to a file, and show none.
"""

import os
from binascii import b2a_base64

import msgspec

from ocifs.errors import InvalidImageError


class NoRangesError(InvalidImageError):
    """The registry gives whole blobs only."""


class Credentials(msgspec.Struct, frozen=True):
    """A user's name with a password, or a token that stands for both."""

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


class Certificates(msgspec.Struct, frozen=True):
    """Whom to believe, and who we are; the texts are PEM, each with what errors call it."""

    verify: bool = True
    authorities: tuple[tuple[str, str], ...] = ()
    """CAs, besides those of the system."""
    clients: tuple[tuple[str, str], ...] = ()
    """Certificate and key in one text."""

    def __repr__(self) -> str:
        """Show no key."""
        return f"Certificates(verify={self.verify})"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint of a registry."""

    host: str
    """`HOST[:PORT]`."""
    address: str
    """What to connect to."""
    repository: str
    plain_http: bool
    """Whether HTTP without TLS will do."""
    certificates: Certificates = Certificates()
    scheme: str | None = None
    """`http` or `https`; None: to be found out."""
    credentials: Credentials | None = None
    url: str | None = None
    """Of one blob, named by the image; then nothing but that is asked for, and `repository` is empty."""

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}"


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a blob is."""

    peers: tuple[Peer, ...]
    """The one to ask first comes first."""
    path: str
    """Below the repository."""
    digest: str
    size: int
    """Bytes."""
