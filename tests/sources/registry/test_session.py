"""Asking a registry in which much goes wrong."""

import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from msgspec import structs

from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, RegistryError
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.authorization import Authorization, is_same_domain, parse_challenges
from ocifs.sources.registry.configuration import Configuration, Endpoint, endpoints
from ocifs.sources.registry.configuration import Registry as Configured
from ocifs.sources.registry.session import Session
from ocifs.sources.registry.source import open_session
from ocifs.sources.registry.timeouts import Timeouts
from ocifs.sources.registry.transport import TransientError, read_all
from ocifs.sources.registry.url import parse_url
from tests.images import Image, layout_files
from tests.registry import (
    HASTY,
    SECRET,
    Act,
    Blob,
    Fault,
    Handler,
    Registry,
    basic,
    bearer,
    endless_chunk,
    endless_trailers,
    half_headers,
    hang_up,
    let_expire,
    make_certificate,
    redirect,
    running,
    stall,
    status,
    trickled_extension,
)

ONCE = Timeouts(first_operation=0.0)
"""One try."""


@contextmanager
def asking(
    registry: Registry, access: Access | None = None, *, timeouts: Timeouts = HASTY, insecure: bool = False
) -> Iterator[Session]:
    endpoint = Endpoint(registry.host, "app", insecure=insecure)
    opened = open_session(endpoint, structs.replace(access or Access(), timeouts=timeouts))
    try:
        yield opened
    finally:
        opened.close()


def manifest(asked: Session) -> bytes:
    def once() -> bytes:
        answer = asked.get("manifests/latest", {}, what="manifest latest")
        return read_all(answer.response, answer.host, 1 << 20, answer.timeouts)

    return asked.with_retries(once)


@pytest.fixture
def registry(registry: Registry) -> Registry:
    registry.add("app", layout_files(Image()))
    return registry


def expected(registry: Registry) -> bytes:
    return registry.manifests["app"]["latest"].data


def test_plain_http_on_loopback(registry: Registry) -> None:
    with asking(registry) as asked:
        assert manifest(asked) == expected(registry)


def test_plain_http_only_where_it_will_do(registry: Registry) -> None:
    with asking(registry, Access(tls_verify=True)) as asked, pytest.raises(RegistryError, match=r"no TLS connection"):
        manifest(asked)


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(registry: Registry, code: int) -> None:
    registry.fault(status(code), "/manifests/", times=3)
    with asking(registry) as asked:
        assert manifest(asked) == expected(registry)
    assert len(registry.requests) == 4


@pytest.mark.parametrize("fault", [hang_up, status(503)])
def test_until_there_is_no_time_left(registry: Registry, fault: object) -> None:
    registry.fault(fault, "/manifests/")  # type: ignore[arg-type]
    with asking(registry, timeouts=Timeouts(operation=0.2, first_operation=0.2, pause=0.01)) as asked:
        for _ in range(2):  # nothing is poisoned: each read has its own budget
            with pytest.raises(TransientError, match=r"127\.0\.0\.1"):
                manifest(asked)
        registry.faults.clear()
        assert manifest(asked) == expected(registry)


def test_a_port_without_a_server() -> None:
    with running() as gone:
        pass
    with asking(gone, timeouts=Timeouts(first_operation=0.1)) as asked:
        with pytest.raises(RegistryError, match=r"cannot connect to 127.*: connection refused$"):
            manifest(asked)


def test_a_name_without_an_address() -> None:
    asked = open_session(
        Endpoint("registry.invalid", "app", insecure=False), Access(timeouts=Timeouts(first_operation=0.1))
    )
    with pytest.raises(RegistryError, match=r"^cannot find the address of registry.invalid$"):
        manifest(asked)


def test_retry_after_is_honoured(registry: Registry) -> None:
    registry.fault(status(429, Retry_After="1"), "/manifests/", times=1)
    began = time.monotonic()
    with asking(registry) as asked:
        assert manifest(asked) == expected(registry)
    assert time.monotonic() - began >= 1


def test_retry_after_the_budget_is_not_waited_for(registry: Registry) -> None:
    registry.fault(status(429, Retry_After="3600"), "/manifests/")
    with asking(registry) as asked, pytest.raises(RegistryError, match=r"cannot send manifest latest now: status 429"):
        manifest(asked)
    assert len(registry.requests) == 1


@pytest.mark.parametrize(
    "value",
    [
        "soon", "-1", "1.5", "9" * 400, "9" * 5000, "\xb2", "Fri, 31 Dec 99999999999 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 -9999", "Fri, 99 Dec 1999 99:99:99 GMT", "Fri, 31 Dec 1999 23:59:59 GMT",
    ],
)  # fmt: skip
def test_retry_after_may_be_anything(registry: Registry, value: str) -> None:
    registry.fault(status(503, Retry_After=value), "/manifests/")
    with asking(registry, timeouts=Timeouts(operation=0.1)) as asked:
        with pytest.raises(RegistryError, match="status 503"):
            manifest(asked)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (404, NotFoundError, r"has no manifest latest \(SCRIPTED\)"),
        (416, InvalidImageError, "manifest latest is shorter than its descriptor says"),
        (403, RegistryError, "refuses manifest latest: status 403 SCRIPTED; log in with `podman login`"),
        (405, RegistryError, "does not send manifest latest: status 405 SCRIPTED"),
    ],
)
def test_what_does_not_pass_is_told_at_once(
    registry: Registry, code: int, error: type[OcifsError], message: str
) -> None:
    registry.fault(status(code), "/manifests/")
    with asking(registry) as asked, pytest.raises(error, match=message) as caught:
        manifest(asked)
    assert SECRET not in str(caught.value)
    assert len(registry.requests) == 1


def test_an_answer_that_does_not_come(registry: Registry) -> None:
    registry.fault(stall, "/manifests/", times=1)
    with asking(registry, timeouts=Timeouts(answer=0.2)) as asked:
        assert manifest(asked) == expected(registry)


def test_headers_that_never_end(registry: Registry) -> None:
    registry.fault(half_headers, "/manifests/", times=1)
    with asking(registry, timeouts=Timeouts(answer=0.3)) as asked:
        assert manifest(asked) == expected(registry)
    assert len(registry.requests) == 2


@pytest.mark.parametrize("fault", [endless_chunk, endless_trailers, trickled_extension])
def test_a_body_whose_framing_never_ends(registry: Registry, fault: Act) -> None:
    registry.fault(fault, "/manifests/", times=1)
    with asking(registry, timeouts=Timeouts(answer=0.3, pause=0.01)) as asked:
        assert manifest(asked) == expected(registry)
    assert len(registry.requests) == 2


def test_the_text_of_an_error_that_never_ends(registry: Registry) -> None:
    def act(handler: Handler, blob: Blob) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 418 No\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not handler.registry.closing.wait(0.05):
            handler.wfile.write(b"0")

    registry.fault(act, "/manifests/")
    with asking(registry, timeouts=Timeouts(answer=0.3)) as asked:
        with pytest.raises(RegistryError, match=r"does not send manifest latest: status 418$"):
            manifest(asked)


def test_a_token_that_never_ends(registry: Registry) -> None:
    registry.fault(bearer("t0ken", registry.base + "/v2/tokens"), "/manifests/")
    registry.fault(trickled_extension, "/v2/tokens")
    with asking(registry, timeouts=Timeouts(answer=0.3, operation=0.1)) as asked:
        with pytest.raises(TransientError, match=r"stopped sending"):
            manifest(asked)


def test_headers_decide_nothing(registry: Registry) -> None:
    """Such as `Docker-Content-Digest`, of which the scripted registry sends a wrong one."""
    seen: list[str] = []

    def note(handler: Handler, blob: Blob) -> None:
        seen.append("noted")
        handler.answer(200, blob.data, {"Docker-Content-Digest": "sha256:" + "f" * 64})

    registry.fault(note, "/manifests/")
    with asking(registry) as asked:
        assert manifest(asked) == expected(registry)
    assert seen


def test_a_body_that_never_ends(registry: Registry) -> None:
    registry.fault(lambda handler, blob: handler.answer(200, bytes(2 << 20)), "/manifests/")
    with asking(registry) as asked, pytest.raises(RegistryError, match="more than 1048576 bytes"):
        manifest(asked)


# Redirects


def test_redirects_to_another_host_carry_no_credentials(registry: Registry) -> None:
    registry.fault(basic("me", "pw"), "/manifests/", times=1)
    with running() as store, asking(registry, Access(credentials="me:pw")) as asked:
        store.add("app", layout_files(Image()))
        registry.fault(redirect(store.base + "{path}?signature=" + SECRET), "/manifests/")
        assert manifest(asked) == expected(registry)
        assert "authorization" in registry.requests[1].headers
        assert SECRET in store.requests[0].path
        assert all("authorization" not in request.headers for request in store.requests)


def test_redirects_at_home_carry_them(registry: Registry) -> None:
    registry.fault(basic("me", "pw"), "/manifests/latest", times=1)
    registry.fault(redirect("/v2/app/manifests/other"), "/manifests/latest")
    registry.manifests["app"]["other"] = registry.manifests["app"]["latest"]
    with asking(registry, Access(credentials="me:pw")) as asked:
        assert manifest(asked) == expected(registry)
    assert "authorization" in registry.requests[-1].headers


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{path}", "redirects more than 5 times"),
        ("", "redirects without a location: status 307"),
        ("ftp://host/file", "redirects to an unusable URL: it is not http://HOST or https://HOST"),
        ("file:///etc/passwd", "redirects to an unusable URL: it is not http://HOST"),
        ("https://", "redirects to an unusable URL: its host is neither a name nor an address"),
        ("http://a..b/", "redirects to an unusable URL: its host is neither a name nor an address"),
        ("http://[::1/", "redirects to an unusable URL: it is malformed"),
        ("//[", "redirects to an unusable URL: it is malformed"),
        ("http://127.0.0.1:99999/", "redirects to an unusable URL: port 99999 is not a number from 1 to 65535"),
        ("http://127.0.0.1:port/", "redirects to an unusable URL: port port is not a number from 1 to 65535"),
        ("/a\tb", "redirects to an unusable URL: it is malformed"),
    ],
)
def test_redirects_that_are_refused(registry: Registry, target: str, message: str) -> None:
    registry.fault(redirect(target), "/manifests/")
    with asking(registry) as asked, pytest.raises(RegistryError, match=message):
        manifest(asked)


@pytest.mark.parametrize(
    ("realm", "message"),
    [
        ("http://[::1/", "names as its token server an unusable URL"),
        ("http://127.0.0.1:99999/", "names as its token server an unusable URL: port 99999"),
        ("https://a..b/", "names as its token server an unusable URL: its host"),
        ("", "names as its token server an unusable URL"),
        ("file:///etc/passwd", "names as its token server an unusable URL"),
    ],
)
def test_token_servers_with_a_malformed_url(registry: Registry, realm: str, message: str) -> None:
    registry.fault(bearer("t0ken", realm), "/manifests/")
    with asking(registry) as asked, pytest.raises(RegistryError, match=message):
        manifest(asked)


@pytest.mark.parametrize("host", ["127.0.0.1:99999", "a..b", "[::1", "me@127.0.0.1", "127.0.0.1?x", ""])
def test_endpoints_with_a_malformed_host(host: str) -> None:
    with pytest.raises(RegistryError):
        endpoints("host.example/app", Configuration((Configured("host.example", f"{host}/app"),)), by_digest=False)


@pytest.mark.parametrize("proxy", ["http://[::1/", "http://127.0.0.1:99999", "socks5://127.0.0.1:1", "//", "h:x"])
def test_proxies_with_a_malformed_url(registry: Registry, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("https_proxy", proxy)
    with asking(registry) as asked, pytest.raises(RegistryError, match=r"^https?_proxy names an unusable URL"):
        manifest(asked)


def test_a_proxy_whose_header_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while True:
                    connection.sendall(b"X: y\r\n")
                    time.sleep(0.02)

        proxy = threading.Thread(target=trickle)
        proxy.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        timeouts = Timeouts(connect=0.3, first_operation=0.0)
        asked = open_session(Endpoint("registry.example", "app", insecure=False), Access(timeouts=timeouts))
        with closing(asked), pytest.raises(TransientError, match=r"registry\.example"):
            manifest(asked)
        proxy.join()


def test_a_password_of_any_bytes(registry: Registry) -> None:
    registry.fault(basic("me", "\udcff"), "/manifests/")
    with asking(registry, Access(credentials="me:\udcff")) as asked:
        assert manifest(asked) == expected(registry)


@pytest.mark.parametrize(
    ("headers", "well"),
    [
        ({"Content-Length": "{size}, {size}"}, True),
        ({"Content-Length": "{size}, 1"}, False),
        ({"Content-Length": "-1"}, True),
        ({"Content-Length": "9" * 5000}, True),
        ({"Content-Length": "many"}, True),
        ({"X": "y" * 70_000}, False),
        ({f"X-{number}": "y" for number in range(200)}, False),
        ({"X": "\xff\x80"}, True),
    ],
)
def test_odd_headers(registry: Registry, headers: dict[str, str], well: bool) -> None:
    def act(handler: Handler, blob: Blob) -> None:
        named = {name: value.format(size=len(blob.data)) for name, value in headers.items()}
        handler.close_connection = True
        handler.answer(200, blob.data, named)

    registry.fault(act, "/manifests/")
    with asking(registry, timeouts=ONCE) as asked:
        if well:
            assert manifest(asked) == expected(registry)
        else:
            with pytest.raises(TransientError):
                manifest(asked)


@pytest.mark.parametrize(
    "line", [b"", b"\0", b"HTTP/1.1", b"HTTP/1.1 abc OK", b"HTTP/1.1 99999 OK", b"HTTP/9.9 200 OK"]
)
def test_odd_status_lines(registry: Registry, line: bytes) -> None:
    def act(handler: Handler, blob: Blob) -> None:
        handler.close_connection = True
        handler.wfile.write(line + b"\r\nContent-Length: 2\r\n\r\n{}")

    registry.fault(act, "/manifests/")
    with asking(registry, timeouts=ONCE) as asked:
        with pytest.raises(TransientError, match=r"^the connection to 127.0.0.1:\d+ was lost"):
            manifest(asked)


def test_continue_for_ever_is_cut_off(registry: Registry) -> None:
    def act(handler: Handler, blob: Blob) -> None:
        handler.close_connection = True
        while not handler.registry.closing.is_set():
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    registry.fault(act, "/manifests/")
    with asking(registry, timeouts=Timeouts(answer=0.2, first_operation=0.0)) as asked, pytest.raises(TransientError):
        manifest(asked)


def test_a_signed_url_that_expired_is_made_anew(registry: Registry) -> None:
    with running() as store, asking(registry) as asked:
        store.add("app", layout_files(Image()))
        store.fault(status(403), "/manifests/", times=1)
        registry.fault(redirect(store.base + "{path}?signature=" + SECRET), "/manifests/")
        assert manifest(asked) == expected(registry)
        assert len(registry.requests) == len(store.requests) == 2


def test_a_signed_url_that_is_refused_again(registry: Registry) -> None:
    with running() as store, asking(registry) as asked:
        store.fault(status(403), "/manifests/")
        registry.fault(redirect(store.base + "{path}?signature=" + SECRET), "/manifests/")
        with pytest.raises(RegistryError, match="refuses manifest latest: status 403") as caught:
            manifest(asked)
    assert SECRET not in str(caught.value)


# Authorization


def test_basic(registry: Registry) -> None:
    registry.fault(basic("me", "s3cr3t"), "/v2/app/")
    with asking(registry, Access(credentials="me:s3cr3t")) as asked:
        assert manifest(asked) == manifest(asked) == expected(registry)
    assert len(registry.requests) == 3
    with asking(registry, Access(credentials="me:wrong")) as asked:
        with pytest.raises(RegistryError, match="refuses manifest latest: status 401; log in"):
            manifest(asked)
    with (
        asking(registry) as asked,
        pytest.raises(RegistryError, match=r"requires a login: use `podman login`, --authfile"),
    ):
        manifest(asked)


def test_a_token(registry: Registry) -> None:
    registry.fault(bearer("t0ken"), "/v2/app/")
    registry.tokens = lambda request: (200, {"token": "t0ken", "expires_in": 300})
    with asking(registry, Access(credentials="me:s3cr3t")) as asked:
        assert manifest(asked) == manifest(asked) == expected(registry)
    token = registry.requests[1]
    assert token.path == "/token?scope=repository%3Aapp%3Apull&service=here"
    assert token.headers["authorization"].startswith("Basic ")
    assert len(registry.requests) == 4


def test_an_anonymous_token_called_access_token(registry: Registry) -> None:
    registry.fault(bearer("t0ken"), "/v2/app/")
    registry.tokens = lambda request: (200, {"access_token": "t0ken"})
    with asking(registry) as asked:
        assert manifest(asked) == expected(registry)
    assert "authorization" not in registry.requests[1].headers


def test_an_identity_token_is_posted(registry: Registry, tmp_path: Path) -> None:
    registry.fault(bearer("t0ken"), "/v2/app/")
    authfile = tmp_path / "auth.json"
    authfile.write_text(json.dumps({"auths": {registry.host: {"identitytoken": "refresh"}}}))
    with asking(registry, Access(authfile=authfile)) as asked:
        assert manifest(asked) == expected(registry)
    assert registry.requests[1].method == "POST"


def test_a_token_that_expired_is_made_anew(registry: Registry) -> None:
    tokens = iter(["0ld", "n3w"])
    registry.tokens = lambda request: (200, {"token": next(tokens), "expires_in": 300})
    registry.faults = [Fault(bearer("0ld"), "/v2/app/", times=2), Fault(bearer("n3w"), "/v2/app/")]
    with asking(registry) as asked:
        assert manifest(asked) == manifest(asked) == expected(registry)


def test_a_token_is_used_until_it_expires(registry: Registry) -> None:
    registry.fault(bearer("t0ken"), "/v2/app/")
    registry.tokens = lambda request: (200, {"token": "t0ken", "expires_in": 300})
    times = iter([1000.0, 1269.0, 1271.0])
    with asking(registry) as asked:
        authorization = Authorization(asked.peer, lambda: None, asked.transport, lambda: next(times))
        challenge = {"WWW-Authenticate": f'Bearer realm="{registry.base}/token"'}
        authorization.answer(challenge, parse_url(registry.base, "the test has"), "pull")
        assert authorization.headers("pull") == {"Authorization": "Bearer t0ken"}
        assert authorization.headers("pull") == {}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {}), "refuses the credentials for 127.*: log in again"),
        ((404, {}), "returned no token: status 404"),
        ((200, {}), "returned an unusable token"),
        ((200, {"token": "a\r\nX-Evil: 1"}), "returned an unusable token"),
        ((200, {"token": 1}), "returned an unusable token"),
    ],
)
def test_no_token(registry: Registry, answer: tuple[int, dict[str, object]], message: str) -> None:
    registry.fault(bearer("t0ken"), "/v2/app/")
    registry.tokens = lambda request: answer
    with asking(registry, Access(credentials="me:s3cr3t")) as asked, pytest.raises(RegistryError, match=message):
        manifest(asked)


@pytest.mark.parametrize(
    ("realm", "message"),
    [
        ("http://169.254.169.254/latest", "in another domain but without TLS or a full host name: refused"),
        ("https://10.0.0.1/token", "in another domain but without TLS or a full host name: refused"),
        ("https://intranet/token", "in another domain but without TLS or a full host name: refused"),
        ("http://evil.example/token", "in another domain but without TLS or a full host name: refused"),
        ("https://evil.example/token", "which is in another domain: refused"),
        ("file:///etc/passwd", "names as its token server an unusable URL"),
        ("", "names as its token server an unusable URL"),
    ],
)
def test_realms_of_strangers_get_nothing(registry: Registry, realm: str, message: str) -> None:
    registry.fault(bearer("t0ken", realm), "/v2/app/")
    with asking(registry, Access(credentials="me:s3cr3t")) as asked, pytest.raises(RegistryError, match=message):
        manifest(asked)


def test_an_authorization_that_is_unknown(registry: Registry) -> None:
    registry.fault(
        lambda handler, blob: handler.answer(401, b"", {"WWW-Authenticate": 'Digest realm="x"'}), "/manifests/"
    )
    with (
        asking(registry) as asked,
        pytest.raises(RegistryError, match="requires an authorization scheme that ocifs does not support"),
    ):
        manifest(asked)


@pytest.mark.parametrize(
    ("registry_host", "realm", "expected"),
    [
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("ghcr.io", "ghcr.io", True),
        ("ghcr.io", "evil.io", False),
        ("r.example.co.uk", "auth.example.co.uk", True),
        ("example.co.uk", "evil.co.uk", False),
        ("docker.io", "evil.io", False),
        ("registry.example.com", "registry.example.com.evil.com", False),
        ("registry.example.com", "evilexample.com", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "5.0.0.1", False),
        ("localhost", "localhost", True),
    ],
)
def test_at_home(registry_host: str, realm: str, expected: bool) -> None:
    assert is_same_domain(registry_host, realm) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a b"', [("basic", {"realm": "a b"})]),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"',
            [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        ('Basic realm=x, Bearer realm="y"', [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (r'Bearer realm="a\"b"', [("bearer", {"realm": 'a"b'})]),
        ("=,=", []),
    ],
)
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [tuple(challenge) for challenge in parse_challenges(header)] == expected


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a certificate of it for this machine, one that has expired, and one for another host."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing")
    directory = tmp_path_factory.mktemp("certificates")
    ca = make_certificate(directory, "ca")
    make_certificate(directory, "server", ca)
    let_expire(make_certificate(directory, "expired", ca), ca)
    make_certificate(directory, "elsewhere", ca, of="DNS:elsewhere.example")
    return directory


@contextmanager
def tls_registry(certificates: Path, *, wants_client: bool = False, name: str = "server") -> Iterator[Registry]:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.crt", certificates / f"{name}.key")
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.crt")
    with running(context) as registry:
        registry.add("app", layout_files(Image()))
        yield registry


def trusting(certificates: Path, directory: Path) -> Access:
    directory.mkdir(exist_ok=True)
    shutil.copy(certificates / "ca.crt", directory)
    return Access(cert_dir=directory)


def test_a_certificate_of_an_unknown_ca(certificates: Path) -> None:
    with (
        tls_registry(certificates) as registry,
        asking(registry, Access(tls_verify=True)) as asked,
        pytest.raises(RegistryError, match=r"is not trusted: .*; name its CA with --cert-dir, or use --tls-verify"),
    ):
        manifest(asked)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("expired", "is not trusted: certificate has expired; name its CA"),
        ("elsewhere", "is not trusted: IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
def test_a_certificate_that_has_expired_or_is_for_another_host(
    certificates: Path, tmp_path: Path, name: str, message: str
) -> None:
    with tls_registry(certificates, name=name) as registry:
        with asking(registry, trusting(certificates, tmp_path / "d")) as asked:
            with pytest.raises(RegistryError, match=message):
                manifest(asked)
        assert not registry.requests


def test_loopback_is_not_less_secure_where_there_is_tls(certificates: Path) -> None:
    with tls_registry(certificates) as registry, asking(registry) as asked:
        with pytest.raises(RegistryError, match="is not trusted"):
            manifest(asked)


def test_a_ca_of_ones_own(certificates: Path, tmp_path: Path) -> None:
    with tls_registry(certificates) as registry, asking(registry, trusting(certificates, tmp_path / "d")) as asked:
        assert manifest(asked) == expected(registry)


def test_a_ca_by_the_name_of_the_registry(certificates: Path, alone: Path) -> None:
    with tls_registry(certificates) as registry:
        directory = alone / ".config/containers/certs.d" / registry.host
        directory.mkdir(parents=True)
        shutil.copy(certificates / "ca.crt", directory)
        with asking(registry) as asked:
            assert manifest(asked) == expected(registry)


def test_no_verification(certificates: Path) -> None:
    with tls_registry(certificates) as registry, asking(registry, Access(tls_verify=False), insecure=True) as asked:
        assert manifest(asked) == expected(registry)


def test_a_client_certificate(certificates: Path, tmp_path: Path) -> None:
    access = trusting(certificates, tmp_path / "d")
    with tls_registry(certificates, wants_client=True) as registry:
        with asking(registry, access) as asked, pytest.raises(RegistryError):
            asked.get("manifests/latest", {}, what="manifest latest")
        make_certificate(tmp_path / "d", "client", certificates / "ca.crt")
        (tmp_path / "d/client.crt").rename(tmp_path / "d/client.cert")
        with asking(registry, access) as asked:
            assert manifest(asked) == expected(registry)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.crt", "no certificate", r"cannot use the certificate .*x\.crt: "),
        ("x.cert", "no certificate", r"cannot use the certificate .*x\.cert: it has no x\.key beside it"),
    ],
)
def test_certificates_that_are_none(registry: Registry, tmp_path: Path, name: str, content: str, message: str) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / name).write_text(content)
    with pytest.raises(OcifsError, match=message), asking(registry, Access(cert_dir=directory)):
        pass


def test_a_cert_dir_that_is_missing(registry: Registry) -> None:
    with pytest.raises(OcifsError, match=r"no such directory: /missing, which --cert-dir names"):
        with asking(registry, Access(cert_dir=Path("/missing"))):
            pass


def test_from_https_never_to_http(certificates: Path, tmp_path: Path, registry: Registry) -> None:
    with tls_registry(certificates) as secure:
        secure.fault(redirect(registry.base + "{path}"), "/manifests/")
        with asking(secure, trusting(certificates, tmp_path / "d")) as asked:
            with pytest.raises(RegistryError, match="without encryption: refused"):
                manifest(asked)


def test_no_token_without_encryption(certificates: Path, tmp_path: Path, registry: Registry) -> None:
    with tls_registry(certificates) as secure:
        secure.fault(bearer("t0ken", registry.base + "/token"), "/manifests/")
        with asking(secure, trusting(certificates, tmp_path / "d")) as asked:
            with pytest.raises(RegistryError, match=r"names the token server .* without encryption: refused"):
                manifest(asked)
    assert not registry.requests


# Proxies


def test_a_proxy_of_the_environment(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as proxy:
        seen: list[str] = []

        def relay(handler: object, blob: object) -> None:
            seen.append(handler.path)  # type: ignore[attr-defined]
            handler.answer(200, expected(registry))  # type: ignore[attr-defined]

        proxy.fault(relay, "manifests")
        monkeypatch.setenv("http_proxy", proxy.base)
        monkeypatch.setenv("https_proxy", proxy.base)
        asked = open_session(Endpoint("registry.invalid", "app", insecure=True), Access(tls_verify=False))
        assert manifest(asked) == expected(registry)
        assert seen == ["http://registry.invalid/v2/app/manifests/latest"]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with asking(registry) as direct:
            manifest(direct)
        assert len(seen) == 1


def test_nothing_reaches_a_log(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    registry.fault(status(503), "/manifests/", times=2)
    registry.fault(redirect("/v2/app/manifests/latest?signature=" + SECRET), "/manifests/latest$")
    with asking(registry) as asked:
        manifest(asked)
    assert SECRET in registry.requests[-1].path
    assert SECRET not in caplog.text
