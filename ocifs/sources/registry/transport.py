"""One HTTP request on urllib3's connection pools: sent once, with timeouts.

An error that may be temporary is a `TransientError`; the caller decides whether to retry. This module follows no
redirects and knows no credentials. No message contains a query, because URLs carry signatures there.
"""

import contextlib
import logging
import ssl
import threading
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
from ocifs.sources.registry.timeouts import Timeouts
from ocifs.sources.registry.url import Url, parse_url
from ocifs.sources.timed_response import MIN_RATE, Pace, TimedResponse

# urllib3 logs whole URLs, with their queries.
logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)

_PIECE = 256 << 10
_CONNECTIONS = 8


class TransientError(RegistryError):
    """A retry may succeed."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to wait, if the registry states them."""


class NoTlsError(RegistryError):
    """TLS handshake failed."""


class HttpConnection(HTTPConnection):
    """A connection without TLS."""

    response_class = TimedResponse


class HttpsConnection(HTTPSConnection):
    """A connection with TLS."""

    response_class = TimedResponse

    def connect(self) -> None:
        """Connect, and do the TLS handshake."""
        super().connect()
        self.is_verified = True  # or the user has disabled verification; urllib3 would print a warning


class HttpPool(HTTPConnectionPool):
    """Connections to one host without TLS."""

    ConnectionCls = HttpConnection


class HttpsPool(HTTPSConnectionPool):
    """Connections to one host with TLS."""

    ConnectionCls = HttpsConnection


class HttpTransport:
    """Connection pools for a registry and the hosts that it redirects to. Safe to use from several threads."""

    pools: ClassVar[dict[str, type[HTTPConnectionPool]]] = {"http": HttpPool, "https": HttpsPool}

    def __init__(self, context: ssl.SSLContext, timeouts: Timeouts, *, proxies: bool = True, proxy: str = "") -> None:
        """`proxy` replaces those of the environment, which `proxies` allows."""
        self._proxy = proxy
        self._context = context
        self._timeout = urllib3.Timeout(connect=timeouts.connect, read=timeouts.answer)
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
        """Send a request and return the response once its headers have arrived.

        Raises:
            TransientError: There is no response, or not in time.
            RegistryError: The server cannot be trusted.
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
                timeout=self._timeout,
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
            raise RegistryError(f"cannot connect to {host}: it is not a valid host name") from None
        except (HTTPError, OSError) as error:
            raise TransientError(f"the connection to {host} was lost: {_reason(error)}") from None
        except ValueError:  # an invalid URL, header or status line
            raise RegistryError(f"cannot use {host}: its URL or its answer is malformed") from None
        has_length = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        if response.status in {200, 206} and not has_length:
            response.close()  # as with truncated headers
            raise TransientError(f"{host} sent an answer without its length")
        return response

    def _manager(self, url: Url) -> urllib3.PoolManager:
        """Return the pools for a URL, through a proxy where hosts.toml or the environment names one."""
        proxy, what = self._proxy, "hosts.toml names"
        if not proxy and self._proxies and not proxy_bypass(f"{url.host}:{url.port}"):
            proxy, what = getproxies().get(url.scheme, ""), f"{url.scheme}_proxy names"
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = self._new_manager(proxy, what)
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
    """Return the root cause of an error of urllib3, whose own text may contain a URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        following = cause.__cause__ or next((each for each in cause.args if isinstance(each, BaseException)), None)
        cause = following or cause.__context__
    return "it was closed"


def body(response: urllib3.BaseHTTPResponse, host: str, timeouts: Timeouts) -> Iterator[bytes]:
    """Yield the body of a response as it arrives.

    Raises:
        TransientError: It is cut short, or arrives too slowly.
    """
    pace = Pace(timeouts.rate)
    try:
        while piece := pace.read(lambda: response.read1(_PIECE, decode_content=False)):
            yield piece
            if pace.is_lost:
                raise TransientError(f"{host} sends less than {MIN_RATE} bytes a second")
    except UrllibTimeoutError:
        raise TransientError(f"{host} stopped sending in the middle of an answer") from None
    except (HTTPError, OSError, ValueError) as error:  # ValueError: a malformed chunk
        raise TransientError(f"the connection to {host} was lost: {_reason(error)}") from None


def read_all(response: urllib3.BaseHTTPResponse, host: str, limit: int, timeouts: Timeouts) -> bytes:
    """Return a body of up to `limit` bytes, and release the connection.

    Raises:
        TransientError: It is cut short, or arrives too slowly.
        RegistryError: It is longer.
    """
    data = bytearray()
    with contextlib.ExitStack() as undo:
        undo.callback(response.close)
        for piece in body(response, host, timeouts):
            data += piece
            if len(data) > limit:
                raise RegistryError(f"{host} sent an answer of more than {limit} bytes: refused")
        undo.pop_all()
    response.release_conn()
    return bytes(data)
