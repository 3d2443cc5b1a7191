"""registries.conf: which endpoints to try for the name of an image (containers-registries.conf(5), version 2).

A name becomes a list of endpoints, mirrors first; or an error, when it is blocked or is an ambiguous short name.
Nothing here accesses a registry. docker.io has one name for its users and other ones for programs.
"""

import ipaddress
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from ocifs.descriptor import read_at_once
from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, RegistryError, printable_path
from ocifs.sources.reference import DOCKER, canonical, host_of, unconfigured
from ocifs.sources.registry.peer import Certificates, EndpointSettings
from ocifs.sources.registry.url import parse_url
from ocifs.spec.document import shown

SYSTEM = Path("/etc/containers")
"""Configuration for all users."""
_MAX_FILE = 4 << 20


class Mirror(msgspec.Struct, frozen=True, rename="kebab"):
    """A `[[registry.mirror]]`."""

    location: str
    insecure: bool = False
    pull_from_mirror: Literal["all", "digest-only", "tag-only"] = "all"


class Registry(msgspec.Struct, frozen=True, rename="kebab"):
    """A `[[registry]]`."""

    prefix: str = ""
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirror_by_digest_only: bool = False
    mirror: tuple[Mirror, ...] = ()


class _File(msgspec.Struct, frozen=True, rename="kebab"):
    unqualified_search_registries: tuple[str, ...] | None = None
    registry: tuple[Registry, ...] = ()
    aliases: dict[str, str] = {}


class Configuration(NamedTuple):
    """The merged content of all files; a later file overrides."""

    registries: tuple[Registry, ...] = ()
    search: tuple[str, ...] = ()
    aliases: dict[str, str] = {}  # noqa: RUF012 - never changed


class Endpoint(NamedTuple):
    """A registry or mirror that may have an image."""

    host: str
    """`HOST[:PORT]` as the user writes it; credentials and certificates are found by it."""
    repository: str
    insecure: bool
    """Accept any certificate, and plain HTTP."""
    is_mirror: bool = False
    """Whether it is another registry than the one in the reference, and gets no credentials that are meant for that."""
    certificates: Certificates | None = None
    """None: those of containers-certs.d(5)."""
    settings: EndpointSettings = EndpointSettings()

    @property
    def address(self) -> str:
        """`HOST[:PORT]` to connect to."""
        return "registry-1.docker.io" if self.host == DOCKER else self.host

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}"


def read_configuration() -> Configuration:
    """Read the user's registries.conf, or else the system's, and the drop-in files of both.

    Raises:
        OcifsError: A file is malformed.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "containers"
    named = os.environ.get("CONTAINERS_REGISTRIES_CONF")
    main = [Path(named)] if named else [home / "registries.conf", SYSTEM / "registries.conf"]
    found = Configuration()
    first = next((path for path in main if named or path.exists()), None)
    dropped = [sorted(directory.glob("*.conf")) for directory in (_drop_ins(SYSTEM), _drop_ins(home))]
    for path in [*([first] if first else []), *dropped[0], *dropped[1]]:
        file = _read(path, is_named=str(path) == named)
        prefixes = {registry.prefix for registry in file.registry}
        found = Configuration(
            (*(each for each in found.registries if each.prefix not in prefixes), *file.registry),
            found.search if file.unqualified_search_registries is None else file.unqualified_search_registries,
            found.aliases | file.aliases,
        )
    return found


def _drop_ins(directory: Path) -> Path:
    return directory / "registries.conf.d"


def _read(path: Path, *, is_named: bool) -> _File:
    """Read a file; one that the environment names may be a pipe."""
    try:
        text = path.read_text() if is_named else read_at_once(path, _MAX_FILE).decode()
        file = msgspec.convert(tomllib.loads(text), _File)
    except (OSError, ValueError) as error:  # errors of TOML, of UTF-8 and of msgspec are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else shown(str(error))
        raise OcifsError(f"cannot use {printable_path(str(path))}: {reason}") from None
    return msgspec.structs.replace(file, registry=tuple(map(_complete, file.registry)))


def _complete(registry: Registry) -> Registry:
    return msgspec.structs.replace(
        registry, prefix=registry.prefix or registry.location, location=registry.location or registry.prefix
    )


def endpoints(
    name: str, configuration: Configuration, *, by_digest: bool, tls_verify: bool | None = None
) -> list[Endpoint]:
    """Return the endpoints for the image `[HOST[:PORT]/]REPOSITORY`, mirrors first.

    Raises:
        NotFoundError: It is a short name that the configuration does not resolve.
        OcifsError: It is blocked.
    """
    full = configured_name(name, configuration)
    registry = max(
        (each for each in configuration.registries if _matches(each.prefix, full)),
        key=lambda each: len(each.prefix),
        default=None,
    )
    if registry is None:
        return [endpoint_of(full, tls_verify=tls_verify)]
    if registry.blocked:
        raise OcifsError(f"{printable_path(full)} is blocked by registries.conf")
    locations = [*_mirrors(registry, by_digest=by_digest), (registry.location, registry.insecure)]
    rest = "" if registry.prefix.startswith("*.") else full[len(registry.prefix) :]
    found = [
        endpoint_of(location + rest if location and rest != full else full, insecure=insecure, tls_verify=tls_verify)
        for location, insecure in locations
        if location or registry.prefix.startswith("*.")
    ]
    return [each._replace(is_mirror=each.host != found[-1].host) for each in found]


def configured_name(name: str, configuration: Configuration) -> str:
    """Return the full name of the image `[HOST[:PORT]/]REPOSITORY`.

    Raises:
        NotFoundError: It is a short name that the configuration does not resolve.
    """
    return canonical(name if host_of(name) else _lengthened(name, configuration))


def full_name(name: str, suffix: str = "") -> tuple[str, bool]:
    """Return the full name for `[HOST[:PORT]/]REPOSITORY`, and whether it is a short name that registries.conf has.

    A short name that is not configured counts as one of docker.io. `suffix` is its tag and digest, for the message.

    Raises:
        NotFoundError: It is a short name for several images.
        OcifsError: A configuration file is malformed.
    """
    configuration = read_configuration()
    if host_of(name) or not (name in configuration.aliases or configuration.search):
        return unconfigured(name, suffix)
    return canonical(_lengthened(name, configuration, suffix)), True


def _mirrors(registry: Registry, *, by_digest: bool) -> Iterator[tuple[str, bool]]:
    if registry.mirror_by_digest_only and not by_digest:
        return
    for mirror in registry.mirror:
        if mirror.pull_from_mirror != ("tag-only" if by_digest else "digest-only"):
            yield mirror.location, mirror.insecure


def endpoint_of(full: str, *, insecure: bool = False, tls_verify: bool | None = None) -> Endpoint:
    """Return the endpoint `HOST[:PORT]/REPOSITORY`.

    Raises:
        OcifsError: It is not the name of a registry and a repository.
    """
    host, _, repository = canonical(full).partition("/")
    if not repository:
        raise InvalidImageError(
            f"{printable_path(full)} names a registry without a repository: write HOST[:PORT]/REPOSITORY"
        )
    url = parse_url(f"https://{host}", f"{printable_path(full)} has")
    if url.userinfo or url.target != "/":
        raise RegistryError(f"{printable_path(full)} does not begin with a registry: write HOST[:PORT]/REPOSITORY")
    return Endpoint(host, repository, insecure if tls_verify is None else not tls_verify)


def is_loopback(host: str) -> bool:
    """Return whether `HOST[:PORT]` is this machine: then plain HTTP is safe, because it crosses no network."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def _matches(prefix: str, full: str) -> bool:
    if prefix.startswith("*."):
        host = full.partition("/")[0].rpartition(":")[0] or full.partition("/")[0]
        return host.endswith(prefix[1:])
    return bool(prefix) and (full == prefix or full.startswith((f"{prefix}/", f"{prefix}:")))


def _lengthened(name: str, configuration: Configuration, suffix: str = "") -> str:
    if (alias := configuration.aliases.get(name)) is not None:
        return alias
    candidates = [f"{host}/{name}" for host in configuration.search]
    if len(candidates) == 1:
        return candidates[0]
    shown_name = printable_path(name)
    if not candidates:
        raise NotFoundError(
            f"{shown_name} is a short name, and no registries.conf says what it is short for: "
            f"write docker://{canonical(f'{DOCKER}/{shown_name}')}, or another registry"
        )
    choices = ", ".join(f"docker://{canonical(each)}{suffix}" for each in candidates)
    raise NotFoundError(f"{shown_name} is a short name that may mean several images: choose from {choices}")
