"""Authorization at a registry: Basic, or a token from the realm that the registry names (distribution's token auth).

Credentials are sent to the registry itself and to a realm in the registry's domain, to no other host, and only over TLS
if the registry is accessed so. Tokens are cached by the actions they allow, until they expire by a monotonic clock.
"""

import ipaddress
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec

from ocifs.errors import OcifsError, RegistryError
from ocifs.sources.registry.peer import Credentials, Peer
from ocifs.sources.registry.transport import HttpTransport, TransientError, read_all
from ocifs.sources.registry.url import Url, parse_url
from ocifs.spec.document import shown

_MAX_ANSWER = 1 << 20
_DEFAULT_SECONDS = 60
_BETWEEN_LOOKS = 1.0
"""Seconds."""
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*,?\s*')
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)(?:\s+|$)")
_TOKEN = re.compile(r"[!-~]{1,65536}")


class _RefusedError(RegistryError):
    """A token server refuses the credentials, or requires some."""


class Challenge(NamedTuple):
    """A challenge of a registry (RFC 7235)."""

    scheme: str
    """In lower case."""
    parameters: dict[str, str]


class _Answer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges of a `WWW-Authenticate` header, up to the first that is malformed."""
    challenges: list[Challenge] = []
    position = 0
    while (scheme := _SCHEME.match(header, position)) and not _PARAMETER.match(header, position):
        parameters: dict[str, str] = {}
        position = scheme.end()
        while parameter := _PARAMETER.match(header, position):
            name, quoted, plain = parameter.groups()
            parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if plain is None else plain)
            position = parameter.end()
        challenges.append(Challenge(scheme[1].lower(), parameters))
    return challenges


def is_same_domain(registry: str, realm: str) -> bool:
    """Return whether the host `realm` is the host `registry` or in its domain; both without a port.

    The domain is the registry's name without its first label. A public suffix such as `co.uk`, in which anyone can
    register a name, is not a domain.
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
    """Credentials and tokens for one endpoint. Safe to use from several threads."""

    def __init__(
        self,
        peer: Peer,
        find: Callable[[], Credentials | None],
        transport: HttpTransport,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer = peer
        self._find_credentials = find
        self._transport = transport
        self._clock = clock
        self.credentials = peer.credentials
        """Those found so far."""
        self._basic: str | None = None
        self._renewing = threading.Lock()
        self._next_look = -math.inf
        self._tokens: dict[str, tuple[str, float]] = {}
        """By actions: the token, and its expiry on the clock."""

    def headers(self, actions: str) -> dict[str, str]:
        """Return the headers for `pull` or `pull,push`, empty before the first challenge."""
        if self._basic is not None:
            return {"Authorization": self._basic}
        token, ends = self._tokens.get(actions, ("", 0.0))
        return {"Authorization": f"Bearer {token}"} if self._clock() < ends else {}

    def answer(self, headers: Mapping[str, str], url: Url, actions: str) -> None:
        """Answer the `WWW-Authenticate` header of a response from `url`: get a token, or switch to Basic.

        Raises:
            RegistryError: The challenge cannot be answered, or answering it is not safe.
        """
        challenges = parse_challenges(headers.get("WWW-Authenticate", ""))
        for challenge in challenges:
            if challenge.scheme == "bearer":
                credentials = self._find()
                try:
                    self._fetch_token(challenge, url, actions, credentials)
                except _RefusedError:
                    if not self.renew(credentials):
                        raise
                    self._fetch_token(challenge, url, actions, self.credentials)
                return
        if any(challenge.scheme == "basic" for challenge in challenges):
            credentials = self._find()
            if credentials is None and self.renew(None):
                credentials = self.credentials
            if credentials is None or credentials.identity_token:
                raise RegistryError(f"{self._peer.host} requires a login: use `podman login`, --authfile or --creds")
            self._basic = credentials.basic
            return
        raise RegistryError(f"{self._peer.host} requires an authorization scheme that ocifs does not support")

    def _find(self) -> Credentials | None:
        if self.credentials is None:
            self.credentials = self._find_credentials()
        return self.credentials

    def renew(self, refused: Credentials | None) -> bool:
        """Use other credentials than those that the registry has refused; return whether there are any.

        They have expired, or the user has logged in since. They are looked up where the command has found the first
        ones, but at most once a second, because that may take a helper.

        Raises:
            RegistryError: Looking them up failed.
        """
        with self._renewing:
            if self.credentials != refused:  # another thread was faster
                return True
            lookup = self._peer.lookup
            if lookup is None or self._clock() < self._next_look:
                return False
            from ocifs.sources.registry.credentials import look_again  # and subprocess

            try:
                found = look_again(lookup, refused)
            except OcifsError as error:
                raise RegistryError(
                    f"{self._peer.host} refuses the credentials, and there are no others: {error}"
                ) from None
            finally:
                self._next_look = self._clock() + _BETWEEN_LOOKS
            if found is None:
                return False
            self.credentials = found
            self._basic = None
            self._tokens.clear()
            return True

    def _fetch_token(self, challenge: Challenge, url: Url, actions: str, credentials: Credentials | None) -> None:
        realm = parse_url(
            challenge.parameters.get("realm", ""), f"{self._peer.host} names as its token server", encoding="latin-1"
        )
        if realm.scheme == "http" and url.scheme == "https":
            raise RegistryError(
                f"{self._peer.host} names the token server {realm.authority} without encryption: refused"
            )
        home = is_same_domain(url.host, realm.host)
        if not home and (realm.scheme == "http" or _is_address(realm.host) or "." not in realm.host):
            raise RegistryError(
                f"{self._peer.host} names the token server {realm.authority}, in another domain but without TLS or a "
                "full host name: refused"
            )
        if not home and credentials is not None:
            raise RegistryError(
                f"{self._peer.host} wants credentials sent to {realm.authority}, which is in another domain: refused"
            )
        scope = f"repository:{self._peer.repository}:{actions}"
        query = {"scope": scope} | {
            key: challenge.parameters[key] for key in ("service",) if key in challenge.parameters
        }
        token, seconds = self._request_token(realm, query, credentials)
        self._tokens[actions] = (token, self._clock() + max(seconds * 0.9, 1))

    def _request_token(self, realm: Url, query: dict[str, str], credentials: Credentials | None) -> tuple[str, float]:
        """Return a token and its lifetime in seconds."""
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
        data = read_all(response, host, _MAX_ANSWER, self._peer.timeouts)
        if response.status in {401, 403}:
            raise _RefusedError(
                f"{host} refuses the credentials for {self._peer.host}: log in again"
                if credentials
                else f"{self._peer.host} requires a login: use `podman login`, --authfile or --creds"
            )
        if response.status == 429 or response.status >= 500:
            raise TransientError(f"{host} returned no token: status {response.status}")
        if response.status != 200:
            raise RegistryError(f"{host} returned no token: status {response.status}")
        try:
            answer = msgspec.json.decode(data, type=_Answer)
        except ValueError:
            raise RegistryError(f"{host} returned an unusable token") from None
        token = answer.token or answer.access_token
        if not _TOKEN.fullmatch(token):
            raise RegistryError(f"{shown(host)} returned an unusable token")
        return token, _DEFAULT_SECONDS if answer.expires_in is None else answer.expires_in
