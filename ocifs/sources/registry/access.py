"""How the user wants registries to be spoken to: a value, that costs nothing to make."""

from pathlib import Path

import msgspec


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every registry of a command; None is for the configuration to say."""

    credentials: "str | None" = None
    """`USER[:PASSWORD]`, for the registry that the reference names, and for no other."""
    authfile: Path | None = None
    """Where credentials are, as `podman login` writes them."""
    tls_verify: bool | None = None
    """False: certificates are not checked, and plain HTTP will do."""
    cert_dir: Path | None = None
    """Holds CAs (`*.crt`) and client certificates (`*.cert` with a `*.key`)."""
    allow_foreign_urls: bool = False
    """Whether a layer that the registry does not have is fetched from where the image says."""

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Access(authfile={self.authfile!r}, tls_verify={self.tls_verify!r}, cert_dir={self.cert_dir!r})"
