"""How to access registries: a value that is cheap to make."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from ocifs.sources.registry.peer import Credentials, KeychainEntry
from ocifs.sources.registry.timeouts import DEFAULT_TIMEOUTS, Timeouts


def _ignore(message: str) -> None:
    """Drop a warning."""


CONTAINERD_HOSTS = Path("/etc/containerd/certs.d")
"""Where containerd's documentation puts hosts.toml files."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Options for every registry of a command; None leaves the choice to the configuration."""

    credentials: "str | None" = None
    """`USER[:PASSWORD]`, for the registry in the reference only."""
    provided: Credentials | None = None
    """Credentials for the registry in the reference only, in any form; `credentials` take precedence."""
    keychain: KeychainEntry | None = None
    """What has other credentials for that registry, once these are refused."""
    authfile: Path | None = None
    """File with credentials, as `podman login` writes them."""
    tls_verify: bool | None = None
    """False: accept any certificate, and plain HTTP."""
    cert_dir: Path | None = None
    """Directory of CAs (`*.crt`) and client certificates (`*.cert` with a `*.key`)."""
    hosts_dir: Path | None = None
    """Directory of containerd's hosts.toml files; None: only registries.conf names mirrors."""
    allow_foreign_urls: bool = False
    """Whether to fetch a layer that the registry lacks from the URL that the image names."""
    warn: Callable[[str], None] = _ignore
    """Called with one line about a file that is skipped."""
    timeouts: Timeouts = DEFAULT_TIMEOUTS

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Access(authfile={self.authfile!r}, tls_verify={self.tls_verify!r}, cert_dir={self.cert_dir!r})"
