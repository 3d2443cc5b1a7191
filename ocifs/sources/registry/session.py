"""Requests to one endpoint of a registry: with authorization, redirects and retries.

Transient errors are retried with growing pauses, or after the time that the registry states, within a budget of time. A
host that has never answered gets a smaller budget, because its name is probably wrong. At most five redirects are
followed, never from HTTPS to HTTP, and no other host gets credentials.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
import urllib3

from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, RegistryError
from ocifs.sources.registry.authorization import Authorization
from ocifs.sources.registry.peer import Credentials, EndpointSettings, FileVersion, Peer
from ocifs.sources.registry.timeouts import Timeouts
from ocifs.sources.registry.tls import make_context
from ocifs.sources.registry.transport import HttpTransport, NoTlsError, TransientError, read_all
from ocifs.sources.registry.url import Url, parse_url
from ocifs.sources.timed_response import MIN_RATE
from ocifs.spec.document import shown

_MAX_PAUSE = 5.0
_spread = random.Random()  # noqa: S311 - only to spread requests
"""Not the generator of the module `random`, whose state other threads may rely on."""
_MAX_RETRY_AFTER = 60.0
_REDIRECTS = 5
_REDIRECT = {301, 302, 303, 307, 308}
_LATER = {408, 425, 429, 500, 502, 503, 504}
_MAX_ERROR = 64 << 10

T = TypeVar("T")


class RegistryResponse(NamedTuple):
    """A response whose body is still to be read; the caller closes or releases it."""

    response: urllib3.BaseHTTPResponse
    host: str
    timeouts: Timeouts
    """Of its body."""


class _Error(msgspec.Struct, frozen=True):
    code: str = ""


class _Errors(msgspec.Struct, frozen=True):
    errors: tuple[_Error, ...] = ()


class Session:
    """One endpoint. Safe to use from several threads."""

    def __init__(
        self, peer: Peer, find: Callable[[], Credentials | None] | None = None, transport: HttpTransport | None = None
    ) -> None:
        """`find` is called for credentials when the registry requires them and `peer` has none."""
        self._peer = peer
        self.transport = transport or HttpTransport(
            make_context(peer.certificates), peer.timeouts, proxy=peer.settings.proxy
        )
        self._find = find or (lambda: peer.credentials)
        self._authorization = Authorization(peer, self._find, self.transport)
        self._scheme = "http" if peer.settings.http_only else peer.scheme if peer.plain_http else "https"
        self._answered = peer.scheme is not None
        self._lock = threading.Lock()

    @property
    def peer(self) -> Peer:
        """The endpoint, with the scheme and the credentials found so far."""
        credentials = self._authorization.credentials
        if not self._answered:  # the process that receives this value cannot look for credentials
            credentials = self._find()
        return msgspec.structs.replace(
            self._peer, scheme=self._scheme if self._answered else None, credentials=credentials
        )

    @property
    def settings(self) -> EndpointSettings:
        """The settings of the endpoint."""
        return self._peer.settings

    @property
    def file(self) -> FileVersion | None:
        """The version of the file that the session is for; None: it is for a repository, or one blob."""
        return self._peer.file

    def close(self) -> None:
        """Close idle connections."""
        self.transport.close()

    def get(self, path: str, headers: Mapping[str, str], *, what: str) -> RegistryResponse:
        """Request `/v2/REPOSITORY/PATH` once; status 200 or 206 is success.

        Args:
            path: Relative to the repository.
            headers: In addition to those of authorization.
            what: Name in errors.

        Raises:
            TransientError: A retry may succeed.
            NotFoundError: There is no such resource.
            RegistryError: The registry refuses, or its answer cannot be trusted.
        """
        return self.request("GET", path, headers, what=what)

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        what: str,
        actions: str = "pull",
        body: bytes | None = None,
    ) -> RegistryResponse:
        """Send one request of any method, with a token that allows the `actions`; raises as `get`."""
        base = self._base()
        url = base.follow(path, f"{self._peer.host} names")
        if self.settings.namespace and url.origin == base.origin and "ns=" not in url.target:
            url = url.with_query(f"ns={quote(self.settings.namespace, safe=':')}")
        allowed = actions if url.origin == base.origin else None
        return self._exchange(method, url, headers, what=what, actions=allowed, body=body)

    def _exchange(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        *,
        what: str,
        actions: str | None,
        body: bytes | None = None,
    ) -> RegistryResponse:
        """Send a request to a URL, with authorization for `actions` unless they are None; raises as `get`."""
        answered = renewed = False
        while True:
            credentials = self._authorization.credentials
            own = {} if actions is None else {**dict(self.settings.headers), **self._authorization.headers(actions)}
            last, response = self._follow(method, url, {**headers, **own}, body)
            self._answered = True
            if response.status in {200, 201, 202, 204, 206}:
                return RegistryResponse(response, last.authority, self.timeouts)
            code = _code(response, last.authority, self.timeouts)
            at_home = last.origin == url.origin
            is_final = response.status == 403 and at_home and "Authorization" not in own
            if response.status not in {401, 403} or is_final:
                raise self._failure(response, code, last, what)
            # A token, or the signature of a redirect's URL, may have expired: renew both, once. Then the credentials.
            if not answered and not at_home:
                answered = True
            elif not answered and (response.status == 401 or "WWW-Authenticate" in response.headers):
                answered = True
                self._authorize(response.headers, last, actions or "pull")
            elif at_home and not renewed and self._authorization.renew(credentials):
                answered, renewed = False, True
            else:
                raise self._failure(response, code, last, what)

    def _authorize(self, headers: Mapping[str, str], url: Url, actions: str) -> None:
        """Answer the challenge in a response."""
        self._authorization.answer(headers, url, actions)

    @property
    def timeouts(self) -> Timeouts:
        """The limits for each operation."""
        return self._peer.timeouts

    @property
    def budget(self) -> float:
        """Seconds for one operation with its retries."""
        return self.timeouts.operation if self._answered else self.timeouts.first_operation

    def with_retries(self, once: Callable[[], T]) -> T:
        """Return `once()`, retrying it on `TransientError` within the budget."""
        budget = RetryBudget(self)
        while True:
            try:
                return once()
            except TransientError as error:
                if not budget.pause(error):
                    raise

    def _base(self) -> Url:
        """Return the URL of the repository; where plain HTTP is acceptable, the first request tries HTTPS."""
        with self._lock:
            if self._scheme is None:
                self._scheme = "https" if self._speaks_tls() else "http"
        return self._url(self._scheme, f"{self.settings.root}/{self._peer.repository}/")

    def _url(self, scheme: str, target: str) -> Url:
        return parse_url(f"{scheme}://{self._peer.address}{target}", f"the registry {shown(self._peer.host)} has")

    def _speaks_tls(self) -> bool:
        try:
            answer = self.transport.send("GET", self._url("https", f"{self.settings.root}/"), {})
        except (NoTlsError, TransientError):
            return False
        answer.close()
        return True

    def _follow(
        self, method: str, url: Url, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[Url, urllib3.BaseHTTPResponse]:
        """Send a request, follow redirects, and return the last URL and its response."""
        for _ in range(_REDIRECTS + 1):
            response = self.transport.send(method, url, headers, body)
            if response.status not in _REDIRECT:
                return url, response
            location = response.headers.get("Location", "")
            response.close()
            if not location:
                raise RegistryError(f"{url.authority} redirects without a location: status {response.status}")
            target = url.follow(location, f"{url.authority} redirects to")
            if target.origin != url.origin:
                private = {"Authorization", "Cookie", *dict(self.settings.headers)}
                headers = {key: value for key, value in headers.items() if key not in private}
            url = target
        raise RegistryError(f"{self._peer.host} redirects more than {_REDIRECTS} times")

    def _failure(self, response: urllib3.BaseHTTPResponse, code: str, url: Url, what: str) -> OcifsError:
        """Return the error for a response."""
        host, status = url.authority, response.status
        detail = f"status {status}{f' {code}' if code else ''}"
        if status == 404:
            return NotFoundError(f"{self._peer.host} has no {what}" + (f" ({code})" if code else ""))
        if status == 416:
            return InvalidImageError(f"{host} says that {what} is shorter than its descriptor says")
        if status in _LATER:
            return TransientError(f"{host} cannot send {what} now: {detail}", _retry_after(response))
        if status in {401, 403}:
            return RegistryError(
                f"{host} refuses {what}: {detail}; log in with `podman login`, or use --authfile or --creds"
            )
        return RegistryError(f"{host} does not send {what}: {detail}")


class RetryBudget:
    """The budget of an operation and its retries.

    That of a stream starts again as long as its bytes come at `MIN_RATE`, with all pauses and failed requests since the
    last start. So a link may fail any number of times, but no server can send a byte in each of endless responses.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._start()

    def _start(self) -> None:
        self._since = time.monotonic()
        self._received = 0
        self._pause = self._session.timeouts.pause

    def note(self, received: int) -> None:
        """Note bytes that have been received, and start again if they are enough."""
        self._received += received
        if self._received >= MIN_RATE * (time.monotonic() - self._since):
            self._start()

    def leave_out(self, seconds: float) -> None:
        """Do not count the time that the reader has taken between two pieces."""
        self._since += seconds

    def pause(self, error: TransientError) -> bool:
        """Sleep before the next try; return False at once if the budget does not allow that."""
        pause = self._pause * _spread.uniform(0.5, 1.5)
        self._pause = min(self._pause * 2, _MAX_PAUSE)
        if error.retry_after is not None:
            pause = max(error.retry_after, pause)
        if time.monotonic() - self._since + pause > self._session.budget:
            return False
        time.sleep(pause)
        return True


def _code(response: urllib3.BaseHTTPResponse, host: str, timeouts: Timeouts) -> str:
    """Return the code of an error (distribution spec, Error Codes), not its message, which is free text."""
    try:
        errors = msgspec.json.decode(read_all(response, host, _MAX_ERROR, timeouts), type=_Errors).errors
    except (RegistryError, ValueError):
        return ""
    code = errors[0].code if errors else ""
    return code if code.replace("_", "").isalpha() and code.isascii() and len(code) < 40 else ""


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value), _MAX_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):  # not a date, or one outside the calendar
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)
