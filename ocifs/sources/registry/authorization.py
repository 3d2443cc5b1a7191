"""Who we are to a registry: Basic, or a token from the realm that the registry names (distribution's token auth).

Credentials go to the registry itself, and to a realm that is at home where the registry is; to no other host, and by no
other way than the registry is spoken to. Tokens are kept by what they are for, until they expire by a monotonic clock.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec

from ocifs.errors import RegistryError
from ocifs.sources.registry.peer import Credentials, Peer
from ocifs.sources.registry.transport import TransientError, Transport, read_all
from ocifs.sources.registry.url import Url, parse_url
from ocifs.spec.document import shown

_MAX_ANSWER = 1 << 20
_DEFAULT_SECONDS = 60
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*,?\s*')
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)(?:\s+|$)")
_TOKEN = re.compile(r"[!-~]{1,65536}")


class Challenge(NamedTuple):
    """What a registry asks for (RFC 7235)."""

    scheme: str
    """In lower case."""
    parameters: dict[str, str]


class _Answer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges of a `WWW-Authenticate` header; what cannot be read ends the list."""
    challenges: list[Challenge] = []
    place = 0
    while (scheme := _SCHEME.match(header, place)) and not _PARAMETER.match(header, place):
        parameters: dict[str, str] = {}
        place = scheme.end()
        while parameter := _PARAMETER.match(header, place):
            name, quoted, plain = parameter.groups()
            parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if plain is None else plain)
            place = parameter.end()
        challenges.append(Challenge(scheme[1].lower(), parameters))
    return challenges


def at_home(registry: str, realm: str) -> bool:
    """Whether the host `realm` is the host `registry`, or in the same domain: both without a port.

    The domain is what is left of the registry's name without its first label; a domain such as `co.uk`, in which
    anybody can have a name, is none.
    """
    if registry == realm:
        return True
    domain = registry.partition(".")[2]
    labels = domain.split(".")
    shared = len(labels) == 2 and len(labels[1]) == 2 and len(labels[0]) <= 3
    if len(labels) < 2 or shared or _is_address(registry):
        return False
    return realm == domain or realm.endswith(f".{domain}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class Authorization:
    """What is known of how one endpoint wants to be asked."""

    def __init__(self, peer: Peer, find: Callable[[], Credentials | None], transport: Transport) -> None:
        self._peer = peer
        self._find_credentials = find
        self._transport = transport
        self.credentials = peer.credentials
        """Those that were asked for."""
        self._basic: str | None = None
        self._tokens: dict[str, tuple[str, float]] = {}
        """By scope: the token, and when it ends on the monotonic clock."""

    def headers(self, actions: str) -> dict[str, str]:
        """Return the headers for `pull` or `pull,push`, as far as is known by now."""
        if self._basic is not None:
            return {"Authorization": self._basic}
        token, ends = self._tokens.get(actions, ("", 0.0))
        return {"Authorization": f"Bearer {token}"} if time.monotonic() < ends else {}

    def answer(self, headers: Mapping[str, str], url: Url, actions: str) -> None:
        """Do what the `WWW-Authenticate` header of an answer from `url` asks for.

        Raises:
            RegistryError: It cannot be done, or we will not.
        """
        challenges = parse_challenges(headers.get("WWW-Authenticate", ""))
        for challenge in challenges:
            if challenge.scheme == "bearer":
                self._fetch_token(challenge, url, actions)
                return
        credentials = self._find()
        if any(challenge.scheme == "basic" for challenge in challenges):
            if credentials is None or credentials.identity_token:
                raise RegistryError(f"{self._peer.host} wants a login: `podman login`, --authfile or --creds")
            if self._basic == credentials.basic:
                raise RegistryError(f"{self._peer.host} refuses the credentials: log in again")
            self._basic = credentials.basic
            return
        raise RegistryError(f"{self._peer.host} asks for no authorization that ocifs knows")

    def _find(self) -> Credentials | None:
        if self.credentials is None:
            self.credentials = self._find_credentials()
        return self.credentials

    def _fetch_token(self, challenge: Challenge, url: Url, actions: str) -> None:
        realm = parse_url(
            challenge.parameters.get("realm", ""), f"{self._peer.host} names as its token server", encoding="latin-1"
        )
        if realm.scheme == "http" and url.scheme == "https":
            raise RegistryError(
                f"{self._peer.host} sends us without encryption to {realm.authority} for a token: refused"
            )
        credentials = self._find()
        home = at_home(url.host, realm.host)
        if not home and (realm.scheme == "http" or _is_address(realm.host) or "." not in realm.host):
            raise RegistryError(f"{self._peer.host} sends us to {realm.authority} for a token, a stranger: refused")
        if not home and credentials is not None:
            raise RegistryError(
                f"{self._peer.host} sends us to {realm.authority} with the credentials, which is elsewhere: refused"
            )
        scope = f"repository:{self._peer.repository}:{actions}"
        query = {"scope": scope} | {
            key: challenge.parameters[key] for key in ("service",) if key in challenge.parameters
        }
        token, seconds = self._ask(realm, query, credentials)
        self._tokens[actions] = (token, time.monotonic() + max(seconds * 0.9, 1))

    def _ask(self, realm: Url, query: dict[str, str], credentials: Credentials | None) -> tuple[str, float]:
        """Return a token, and for how many seconds it is good."""
        host = realm.authority
        if credentials is not None and credentials.identity_token:
            form = {"grant_type": "refresh_token", "client_id": "ocifs", "refresh_token": credentials.identity_token}
            response = self._transport.send(
                "POST",
                realm,
                {"Content-Type": "application/x-www-form-urlencoded"},
                urlencode(query | form).encode(),
            )
        else:
            headers = {} if credentials is None else {"Authorization": credentials.basic}
            response = self._transport.send("GET", realm.with_query(urlencode(query)), headers)
        data = read_all(response, host, _MAX_ANSWER)
        if response.status in {401, 403}:
            raise RegistryError(
                f"{host} refuses the credentials for {self._peer.host}: log in again"
                if credentials
                else f"{self._peer.host} wants a login: `podman login`, --authfile or --creds"
            )
        if response.status == 429 or response.status >= 500:
            raise TransientError(f"{host} gives no token: status {response.status}")
        if response.status != 200:
            raise RegistryError(f"{host} gives no token: status {response.status}")
        try:
            answer = msgspec.json.decode(data, type=_Answer)
        except ValueError:
            raise RegistryError(f"{host} gives no token that can be read") from None
        token = answer.token or answer.access_token
        if not _TOKEN.fullmatch(token):
            raise RegistryError(f"{shown(host)} gives no token that can be read")
        return token, _DEFAULT_SECONDS if answer.expires_in is None else answer.expires_in
