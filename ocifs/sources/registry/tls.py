"""Certificates: whom to believe, and who we are (containers-certs.d(5)).

A directory holds CAs as `*.crt`, besides those of the system, and client certificates as `NAME.cert` with `NAME.key`.
"""

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from ocifs.errors import OcifsError, printable_path

_SYSTEM = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


def make_context(host: str, cert_dir: Path | None, *, verify: bool) -> ssl.SSLContext:
    """Return what TLS connections to the registry `HOST[:PORT]` are made with.

    Raises:
        OcifsError: A certificate cannot be used.
    """
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_dir is not None and not cert_dir.is_dir():
        raise OcifsError(f"no such directory: {printable_path(str(cert_dir))}, which --cert-dir names")
    directory = cert_dir or next((each for each in _directories(host) if each.is_dir()), None)
    for path in sorted(directory.iterdir()) if directory else []:
        try:
            _load(context, path)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "strerror", None) or str(error)
            raise OcifsError(f"cannot use the certificate {printable_path(str(path))}: {reason}") from None
    return context


def _directories(host: str) -> Iterator[Path]:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for base in (home / "containers/certs.d", *_SYSTEM):
        yield base / host


def _load(context: ssl.SSLContext, path: Path) -> None:
    if path.suffix == ".crt":
        context.load_verify_locations(path)
    elif path.suffix == ".cert":
        key = path.with_suffix(".key")
        if not key.exists():
            raise ValueError(f"it has no {printable_path(key.name)} beside it")
        context.load_cert_chain(path, key, password=_no_password)


def _no_password() -> str:
    raise ValueError("its key is encrypted, and nobody can be asked for the password")
