"""hosts.toml: the endpoints that containerd is configured to use for a registry (containerd, docs/hosts.md).

A directory such as /etc/containerd/certs.d has one directory for each registry, and `_default` for all others. Its
hosts.toml lists mirrors in the order in which to try them, and the server behind them. A directory without a hosts.toml
may hold certificates, named as for docker. containerd logs a malformed file and ignores it; this module refuses it.
Nothing here accesses a registry.
"""

import posixpath
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ocifs.descriptor import read_at_once
from ocifs.errors import OcifsError, RegistryError, printable_path
from ocifs.sources.reference import canonical
from ocifs.sources.registry.configuration import Endpoint, endpoint_of, is_loopback
from ocifs.sources.registry.peer import CAPABILITIES, Certificates, EndpointSettings
from ocifs.sources.registry.tls import read_certificates
from ocifs.sources.registry.url import Url, parse_url
from ocifs.spec.document import shown

_TLS = ("ca", "client", "skip_verify")
FIELDS = frozenset(("server", "host", "capabilities", "header", "override_path", "dial_timeout", "proxy", *_TLS))
"""The keys that ocifs reads; it ignores other ones."""

_MAX_FILE = 1 << 20
_MOST = 32
"""Most hosts of one file, and most certificates and headers of one host."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e\t]{0,8192}", re.ASCII)
_FRAMING = {"host", "content-length", "transfer-encoding", "connection", "range", "accept-encoding"}
"""Headers on which the meaning of a request or its answer depends."""
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Host(msgspec.Struct, frozen=True):
    """The settings of a host, in its table or, for the server, at the top."""

    capabilities: tuple[str, ...] = ()
    ca: str | tuple[str, ...] = ()
    client: str | tuple[str | tuple[str, str], ...] = ()
    skip_verify: bool | None = None
    header: dict[str, str | tuple[str, ...]] = {}
    override_path: bool = False
    dial_timeout: str = ""
    proxy: str = ""

    @property
    def has_tls(self) -> bool:
        """Whether it has settings for TLS; then containerd tries TLS first on a host with http://."""
        return any(getattr(self, name) != getattr(_Host(), name) for name in _TLS)


class _File(_Host, frozen=True):
    server: str = ""
    host: dict[str, _Host] = {}


def host_endpoints(directory: Path, full: str, *, tls_verify: bool | None = None) -> list[Endpoint] | None:
    """Return the endpoints for the image `HOST[:PORT]/REPOSITORY`, mirrors first; None: nothing is configured for it.

    Args:
        directory: It has a directory for each registry.
        full: Canonical name of the image, without tag and digest.
        tls_verify: Overrides `skip_verify`; True also refuses plain HTTP.

    Raises:
        OcifsError: A file cannot be read or used.
    """
    registry, _, repository = full.partition("/")
    found = _directory(directory, registry)
    if found is None:
        return None
    file = read_hosts(found)
    origin = endpoint_of(full)
    if file is None:
        certificates = read_certificates(registry, found, verify=tls_verify is not False)
        return [origin._replace(certificates=certificates, insecure=tls_verify is False)]
    path = found / "hosts.toml"
    name = printable_path(str(path))
    if len(file.host) > _MOST:
        raise OcifsError(f"cannot use {name}: it has more than {_MOST} hosts")
    hosts = [(_url(text, name), host) for text, host in file.host.items()]
    made = [_endpoint(url, host, registry, repository, path) for url, host in hosts]
    if file.server:
        made.append(_endpoint(_url(file.server, name), file, registry, repository, path))
    else:
        made.append(
            origin._replace(
                certificates=_certificates(file, path),
                insecure=bool(file.skip_verify) and is_loopback(registry),
                settings=_settings(file, name),
            )
        )
    return [_with_tls(each, tls_verify) for each in made]


def read_hosts(directory: Path) -> _File | None:
    """Return the hosts.toml of a directory; None if it has none, or an empty one.

    Raises:
        OcifsError: It is malformed.
    """
    path = directory / "hosts.toml"
    name = printable_path(str(path))
    try:
        data = read_at_once(path, _MAX_FILE)
        return msgspec.convert(tomllib.loads(data.decode()), _File) if data.strip() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # errors of TOML, of UTF-8 and of msgspec are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else shown(str(error))
        raise OcifsError(f"cannot use {name}: {reason}") from None


def unknown_fields(directory: Path) -> list[str]:
    """Return the keys of a directory's hosts.toml that ocifs does not know; raises as `read_hosts`."""
    if read_hosts(directory) is None:
        return []
    tables = tomllib.loads(read_at_once(directory / "hosts.toml", _MAX_FILE).decode())
    found = [key for key in tables if key not in FIELDS]
    for host in tables.get("host", {}).values():
        found += [key for key in host if key not in FIELDS - {"server", "host"}]
    return found


def _directory(root: Path, registry: str) -> Path | None:
    """Return the directory for a registry; `HOST:PORT` may be written `HOST_PORT_`."""
    host, colon, port = registry.rpartition(":")
    names = [f"{host}_{port}_"] if colon and port.isdigit() else []
    for name in (*names, registry, "_default"):
        try:
            if (root / name).is_dir():
                return root / name
        except OSError as error:
            raise OcifsError(f"cannot read {printable_path(str(root / name))}: {error.strerror}") from None
    return None


def _url(text: str, name: str) -> Url:
    """Parse the URL of a host; without a scheme it means https."""
    url = parse_url(text if "://" in text else f"https://{text}", f"{name} has")
    if url.userinfo or "?" in text or "#" in text:
        raise RegistryError(f"{name} has an unusable URL: it must end after the path, and have no user name")
    return url


def _endpoint(url: Url, host: _Host, registry: str, repository: str, path: Path) -> Endpoint:
    root = posixpath.normpath(url.target).rstrip("/")
    if not host.override_path and not root.endswith("/v2"):
        root += "/v2"
    is_mirror = canonical(url.authority) != registry
    tries_tls = url.scheme == "https" or (host.has_tls and url.port != 80)
    return Endpoint(
        url.authority,
        repository,
        insecure=url.scheme == "http" and tries_tls,
        is_mirror=is_mirror,
        certificates=_certificates(host, path),
        settings=msgspec.structs.replace(
            _settings(host, printable_path(str(path))),
            root=root,
            http_only=not tries_tls,
            namespace=registry if is_mirror else "",
        ),
    )


def _with_tls(endpoint: Endpoint, tls_verify: bool | None) -> Endpoint:
    if tls_verify is None:
        return endpoint
    certificates = endpoint.certificates or Certificates()
    http_only = endpoint.settings.http_only and not tls_verify
    return endpoint._replace(
        insecure=not tls_verify and not http_only,
        certificates=msgspec.structs.replace(certificates, verify=tls_verify),
        settings=msgspec.structs.replace(endpoint.settings, http_only=http_only),
    )


def _settings(host: _Host, name: str) -> EndpointSettings:
    capabilities = tuple(each.lower() for each in host.capabilities)
    if unknown := set(capabilities) - CAPABILITIES:
        raise OcifsError(
            f"cannot use {name}: unknown capability '{shown(min(unknown), 40)}': write pull, resolve or push"
        )
    return EndpointSettings(
        capabilities=frozenset(capabilities) or CAPABILITIES,
        headers=tuple(_headers(host, name)),
        connect=_seconds(host.dial_timeout, name) if host.dial_timeout else None,
        proxy=_proxy(host.proxy, name) if host.proxy else "",
    )


def _headers(host: _Host, name: str) -> Iterator[tuple[str, str]]:
    """Yield the headers; no message contains a value, which may be a secret."""
    if len(host.header) > _MOST:
        raise OcifsError(f"cannot use {name}: it has more than {_MOST} headers for a host")
    for key, value in host.header.items():
        if not _HEADER.fullmatch(key) or key.lower() in _FRAMING:
            raise OcifsError(f"cannot use {name}: '{shown(key, 40)}' cannot be set as a header")
        joined = value if isinstance(value, str) else ", ".join(value)
        if not _VALUE.fullmatch(joined):
            raise OcifsError(f"cannot use {name}: the value of header {key} is too long, or is not printable ASCII")
        yield key, joined


def _seconds(text: str, name: str) -> float:
    """Parse a duration as Go writes it, such as 1m30s or 500ms."""
    if not _DURATION.fullmatch(text):
        raise OcifsError(f"cannot use {name}: dial_timeout '{shown(text, 40)}' is not a duration: write it as 5s")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 < seconds <= 3600:
        raise OcifsError(f"cannot use {name}: dial_timeout must be more than 0 and up to 1h")
    return seconds


def _proxy(text: str, name: str) -> str:
    if text.startswith(("socks5://", "socks5h://")):
        raise OcifsError(f"cannot use {name}: ocifs has no SOCKS proxies: name an http:// or https:// proxy")
    url = parse_url(text, f"{name} has a proxy with")
    if url.target != "/":
        raise OcifsError(f"cannot use {name}: the URL of a proxy must have no path")
    return text


def _certificates(host: _Host, path: Path) -> Certificates:
    """Read the CAs and client certificates; their paths are relative to hosts.toml."""
    authorities = (host.ca,) if isinstance(host.ca, str) else host.ca
    clients = (host.client,) if isinstance(host.client, str) else host.client
    if len(authorities) + len(clients) > _MOST:
        raise OcifsError(f"cannot use {printable_path(str(path))}: it has more than {_MOST} certificates for a host")
    pairs = [(each, "") if isinstance(each, str) else each for each in clients]
    return Certificates(
        not host.skip_verify,
        tuple(_read((each,), path) for each in authorities),
        tuple(_read(pair, path) for pair in pairs),
    )


def _read(names: Iterable[str], path: Path) -> tuple[str, str]:
    """Return the first name, as messages show it, and the text of the files together; "" names no file."""
    text, first = "", ""
    for name in filter(None, names):
        file = path.parent / name
        shown_file = printable_path(str(file))
        first = first or shown_file
        try:
            text += read_at_once(file, _MAX_FILE).decode("ascii") + "\n"
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise OcifsError(
                f"cannot use the certificate {shown_file}, which {printable_path(str(path))} names: {reason}"
            ) from None
    return first, text
