"""Certificates: trusted CAs and client certificates (containers-certs.d(5)).

A directory holds CAs as `*.crt`, in addition to those of the system, and client certificates as `NAME.cert` with
`NAME.key`.
"""

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from ocifs.descriptor import read_at_once
from ocifs.errors import OcifsError, printable_path
from ocifs.sources.registry import configuration
from ocifs.sources.registry.peer import Certificates

_DOCKER = Path("/etc/docker")
_MAX_FILE = 4 << 20


def read_certificates(host: str, cert_dir: Path | None, *, verify: bool) -> Certificates:
    """Return the certificates for the registry `HOST[:PORT]`.

    Raises:
        OcifsError: One cannot be read.
    """
    if cert_dir is not None and not cert_dir.is_dir():
        raise OcifsError(f"no such directory: {printable_path(str(cert_dir))}, which --cert-dir names")
    directory = cert_dir or next((each for each in _directories(host) if each.is_dir()), None)
    authorities, clients = [], []
    for path in sorted(directory.iterdir()) if directory else []:
        name = printable_path(str(path))
        try:
            if path.suffix == ".crt":
                authorities.append((name, _text(path)))
            elif path.suffix == ".cert":
                clients.append((name, _text(path) + _text(path.with_suffix(".key"))))
        except FileNotFoundError:
            raise _unusable(name, f"it has no {printable_path(path.with_suffix('.key').name)} beside it") from None
        except (OSError, ValueError) as error:
            raise _unusable(name, getattr(error, "strerror", None) or "it is not text") from None
    return Certificates(verify, tuple(authorities), tuple(clients))


def _text(path: Path) -> str:
    return read_at_once(path, _MAX_FILE).decode()


def make_context(certificates: Certificates) -> ssl.SSLContext:
    """Return the context for TLS connections.

    Raises:
        OcifsError: A certificate cannot be used.
    """
    context = ssl.create_default_context()
    # Set since Python 3.13: it refuses private CAs without the extension keyUsage, which podman and docker accept.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not certificates.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for name, text in (*certificates.authorities, *certificates.clients):
        try:
            if (name, text) in certificates.clients:
                _load_client(context, text)
            else:
                context.load_verify_locations(cadata=text)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _unusable(name, str(getattr(error, "reason", None) or error).lower().replace("_", " ")) from None
    return context


def _directories(host: str) -> Iterator[Path]:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for base in (home / "containers", configuration.SYSTEM, _DOCKER):
        yield base / "certs.d" / host


def _load_client(context: ssl.SSLContext, text: str) -> None:
    """Load a certificate through an unlinked file, because ssl loads from files only."""
    with open(os.memfd_create("ocifs-certificate"), "w") as file:
        file.write(text)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=_no_password)


def _no_password() -> str:
    raise ValueError("its key is encrypted, and ocifs cannot ask for the password")


def _unusable(name: str, reason: str) -> OcifsError:
    return OcifsError(f"cannot use the certificate {name}: {reason}")
