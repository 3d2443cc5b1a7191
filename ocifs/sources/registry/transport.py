"""One request over HTTP, on urllib3's pool of connections: sent once, and within bounds of time.

What may pass by itself becomes `TransientError`; whoever asks decides whether to ask again. Redirects are not followed
here, and nothing is known of credentials. No message holds a query, in which URLs carry their signatures.
"""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    HTTPError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import (
    TimeoutError as UrllibTimeoutError,
)

from ocifs.errors import RegistryError
from ocifs.pool import start
from ocifs.sources.registry.url import Url, parse_url

# urllib3 tells its log whole URLs, with their queries.
logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)

CONNECT_SECONDS = 10
ANSWER_SECONDS = 30
"""From the request to the end of the answer's headers, and between any two pieces of its body."""

_RATE_SECONDS = 10
_MIN_RATE = 1024
"""Bytes per second, over `_RATE_SECONDS`: whoever is slower is taken for stuck."""

_PIECE = 256 << 10
_CONNECTIONS = 8


class TransientError(RegistryError):
    """May pass by itself."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds, where the registry says so."""


class NoTlsError(RegistryError):
    """There is somebody who does not speak TLS as we do."""


class _Watched:
    """A connection whose answer must come in time, whole: a server that sends a byte now and then is cut off."""

    sock: socket.socket | None

    def getresponse(self) -> Any:
        watch = threading.Timer(ANSWER_SECONDS, _cut_off, [self.sock])
        watch.daemon = True
        start(watch)
        try:
            return super().getresponse()  # type: ignore[misc]  # of the connection that it is mixed into
        finally:
            watch.cancel()


class HttpConnection(_Watched, HTTPConnection):
    """A connection without TLS."""


class HttpsConnection(_Watched, HTTPSConnection):
    """A connection by TLS."""

    def connect(self) -> None:
        """Connect, and shake hands."""
        super().connect()
        self.is_verified = True  # or the user has said that it need not be; urllib3 would print a warning


class HttpPool(HTTPConnectionPool):
    """Connections to one host without TLS."""

    ConnectionCls = HttpConnection


class HttpsPool(HTTPSConnectionPool):
    """Connections to one host by TLS."""

    ConnectionCls = HttpsConnection


def _cut_off(sock: socket.socket | None) -> None:
    if sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not ssl's, which takes TLS from under the reader


class Transport:
    """Pools of connections to a registry, and to where it redirects. Safe to use from several threads."""

    pools: ClassVar[dict[str, type[HTTPConnectionPool]]] = {"http": HttpPool, "https": HttpsPool}

    def __init__(self, context: ssl.SSLContext, *, proxies: bool = True) -> None:
        self._context = context
        self._proxies = proxies
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close idle connections."""
        for manager in self._managers.values():
            manager.clear()

    def send(
        self, method: str, url: Url, headers: Mapping[str, str], body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, and return the answer when its headers are there.

        Raises:
            TransientError: There is no answer, or none in time.
            RegistryError: The server cannot be believed.
        """
        host = url.authority
        try:
            response = self._manager(url).urlopen(
                method,
                str(url),
                body=body,
                headers={"User-Agent": "ocifs", "Accept-Encoding": "identity", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
            )
        except SSLError as error:
            raise _tls_failure(host, error) from None
        except NameResolutionError:
            raise TransientError(f"cannot find the address of {host}") from None
        except NewConnectionError as error:
            raise TransientError(f"cannot connect to {host}: {_reason(error)}") from None
        except UrllibTimeoutError:
            raise TransientError(f"no answer from {host} in time") from None
        except ProxyError as error:
            raise TransientError(f"the proxy cannot connect to {host}: {_reason(error)}") from None
        except (LocationValueError, UnicodeError):
            raise RegistryError(f"{host} cannot be asked: it is no name that can be looked up") from None
        except (HTTPError, OSError) as error:
            raise TransientError(f"the connection to {host} was lost: {_reason(error)}") from None
        except ValueError:  # a URL, a header or a line that cannot be one
            raise RegistryError(f"{host} cannot be asked: the URL or an answer of it is malformed") from None
        has_length = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        if response.status in {200, 206} and not has_length:
            response.close()  # headers that were cut look like that
            raise TransientError(f"{host} answers without saying how long the answer is")
        return response

    def _manager(self, url: Url) -> urllib3.PoolManager:
        """Return the pools for a URL: by way of a proxy, where the environment says so."""
        direct = not self._proxies or proxy_bypass(f"{url.host}:{url.port}")
        proxy = "" if direct else getproxies().get(url.scheme, "")
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = self._new_manager(proxy, f"{url.scheme}_proxy names")
            return self._managers[proxy]

    def _new_manager(self, proxy: str, what: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {"num_pools": 16, "maxsize": _CONNECTIONS, "ssl_context": self._context}
        manager = urllib3.PoolManager(**options)
        if proxy:
            url = parse_url(proxy if "://" in proxy else f"http://{proxy}", what)
            try:
                headers = urllib3.make_headers(proxy_basic_auth=url.userinfo) if url.userinfo else None
                manager = urllib3.ProxyManager(str(url), proxy_headers=headers, **options)
            except (HTTPError, ValueError):
                raise RegistryError(f"{what} a proxy that cannot be used: {url.authority}") from None
        manager.pool_classes_by_scheme = self.pools
        return manager


def _tls_failure(host: str, error: SSLError) -> RegistryError:
    cause = error.args[0] if error.args else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RegistryError(
            f"the certificate of {host} is not trusted: {cause.verify_message}; "
            "name its CA with --cert-dir, or use --tls-verify=false"
        )
    reason = getattr(cause, "reason", None) or "it does not speak TLS"
    return NoTlsError(f"no TLS connection to {host}: {str(reason).lower().replace('_', ' ')}")


def _reason(error: BaseException) -> str:
    """Return what lies at the ground of an error of urllib3, whose own text may hold a URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        following = cause.__cause__ or next((each for each in cause.args if isinstance(each, BaseException)), None)
        cause = following or cause.__context__
    return "it was closed"


def body(response: urllib3.BaseHTTPResponse, host: str) -> Iterator[bytes]:
    """Give the body of an answer as it comes.

    Raises:
        TransientError: It is cut short, or comes too slowly.
    """
    since = time.monotonic()
    received = 0
    try:
        while piece := response.read1(_PIECE, decode_content=False):
            yield piece
            received += len(piece)
            if (passed := time.monotonic() - since) > _RATE_SECONDS:
                if received < _MIN_RATE * passed:
                    raise TransientError(f"{host} sends less than {_MIN_RATE} bytes a second")
                since, received = time.monotonic(), 0
    except (HTTPError, OSError, ValueError) as error:  # ValueError: a chunk that is none
        raise TransientError(f"the connection to {host} was lost: {_reason(error)}") from None


def read_all(response: urllib3.BaseHTTPResponse, host: str, limit: int) -> bytes:
    """Return a body of up to `limit` bytes, and let go of the connection.

    Raises:
        TransientError: It is cut short, or comes too slowly.
        RegistryError: It is longer.
    """
    data = bytearray()
    with contextlib.ExitStack() as undo:
        undo.callback(response.close)
        for piece in body(response, host):
            data += piece
            if len(data) > limit:
                raise RegistryError(f"{host} answers with more than {limit} bytes where that is absurd")
        undo.pop_all()
    response.release_conn()
    return bytes(data)
