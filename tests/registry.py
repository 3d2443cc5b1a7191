"""A registry from literals, over HTTP on loopback, that does whatever goes wrong with registries.

It serves the files of layouts (`tests.images.layout_files`), a repository each, and takes pushes. A `Fault` is a rule:
what it does to requests whose path it matches, and to how many of them. All requests are noted, with their headers.
"""

import base64
import gzip
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from ocifs.sources.registry.timeouts import Timeouts
from tests.images import INDEX, MANIFEST, REF_NAME, Files, Image, Json, digest, layout_files, to_json

SECRET = "s3cr3t-signature"
"""In each query that the registry signs."""

HASTY = Timeouts(pause=0.01)
"""Timeouts for tests in which requests are retried."""


class Request(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""

    @property
    def range(self) -> str:
        return self.headers.get("range", "")


class Transfer(NamedTuple):
    """A request with its times, by the monotonic clock, and the bytes of its answer."""

    path: str
    range: str
    began: float
    ended: float
    size: int
    status: int = 0
    """Of the answer; 0: there was none."""
    agent: str = ""


class Blob(NamedTuple):
    """What would be answered, if nothing went wrong."""

    data: bytes
    """The whole blob."""
    media_type: str = "application/octet-stream"
    link: str = ""
    headers: tuple[tuple[str, str], ...] = ()


Act = Callable[["Handler", Blob], None]


@dataclass
class Fault:
    """Does something else to requests whose path matches `path`, after `after` of them, `times` times."""

    act: Act
    path: str = "/blobs/"
    times: int = 1_000_000
    after: int = 0

    def takes(self, request: Request) -> bool:
        if not re.search(self.path, request.path):
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return self.times >= 0


def status(code: int, **headers: str) -> Act:
    """Answer by a status; a `_` in the name of a header is a `-`."""

    def act(handler: "Handler", blob: Blob) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.answer(code, to_json({"errors": [{"code": "SCRIPTED", "message": SECRET}]}), named)

    return act


def redirect(url: str) -> Act:
    """Send elsewhere; `{path}` is the path that was asked for."""
    return lambda handler, blob: handler.answer(307, b"", {"Location": url.format(path=handler.path)})


def cut(after: int) -> Act:
    """Close the connection after so many bytes of the body."""

    def act(handler: "Handler", blob: Blob) -> None:
        handler.serve(blob, cut_at=after)
        handler.close_connection = True

    return act


def slowly(rate: float) -> Act:
    """Send so many bytes a second."""
    return lambda handler, blob: handler.serve(blob, rate=rate)


def whole(handler: "Handler", blob: Blob) -> None:
    """Answer 200 with all of it, whatever range is asked for."""
    handler.answer(200, blob.data, dict(blob.headers))


def chunked(handler: "Handler", blob: Blob) -> None:
    """Answer 200 with all of it in chunks, without its length."""
    handler.send_response(200)
    for name, value in (("Transfer-Encoding", "chunked"), *blob.headers):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(blob.data), blob.data))


def other_range(handler: "Handler", blob: Blob) -> None:
    """Answer another range than is asked for."""
    start, end = handler.range_of(blob)
    headers = {"Content-Range": f"bytes 0-{end - start - 1}/{len(blob.data)}", **dict(blob.headers)}
    handler.answer(206, blob.data[: end - start], headers)


def wrong_bytes(handler: "Handler", blob: Blob) -> None:
    """Answer as asked, with all bits flipped."""
    handler.serve(Blob(blob.data.translate(bytes(reversed(range(256))))))


def encoded(handler: "Handler", blob: Blob) -> None:
    """Send the body as gzip, in stored blocks."""
    handler.answer(200, gzip.compress(blob.data, 0), {"Content-Encoding": "gzip"})


def shorter(handler: "Handler", blob: Blob) -> None:
    """Claim that the blob is a byte shorter."""
    handler.serve(Blob(blob.data[:-1]))


def hang_up(handler: "Handler", blob: Blob) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def half_headers(handler: "Handler", blob: Blob) -> None:
    """Send headers that never end, a byte now and then."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
    while not handler.registry.closing.wait(0.05):
        handler.wfile.write(b"x")


def endless_chunk(handler: "Handler", blob: Blob) -> None:
    """Begin a body in chunks with the size of a chunk that never ends."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not handler.registry.closing.is_set():
        handler.wfile.write(b"0" * 65536)


def endless_trailers(handler: "Handler", blob: Blob) -> None:
    """Send a body in chunks, but its last byte, and trailers without end."""
    handler.close_connection = True
    data = blob.data[:-1]
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    handler.wfile.write(b"%x\r\n%b\r\n0\r\n" % (len(data), data))
    while not handler.registry.closing.is_set():
        handler.wfile.write(b"X: y\r\n" * 1000)


def trickled_extension(handler: "Handler", blob: Blob) -> None:
    """Begin a body in chunks with the extension of a chunk that never ends, a byte now and then."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    while not handler.registry.closing.wait(0.05):
        handler.wfile.write(b"x")


def stall(handler: "Handler", blob: Blob) -> None:
    """Answer nothing until the registry is closed."""
    handler.close_connection = True
    handler.registry.closing.wait()


def bearer(token: str, realm: str = "{base}/token", **parameters: str) -> Act:
    """Want a token; the right one passes."""

    def act(handler: "Handler", blob: Blob) -> None:
        if handler.headers.get("Authorization") == f"Bearer {token}":
            handler.serve(blob)
            return
        more = "".join(f',{name}="{value}"' for name, value in parameters.items())
        challenge = f'Bearer realm="{realm.format(base=handler.registry.base)}",service="here"{more}'
        handler.answer(401, b"{}", {"WWW-Authenticate": challenge})

    return act


def basic(username: str, password: str) -> Act:
    """Want a name and a password; the right ones pass."""
    expected = "Basic " + base64.b64encode(os.fsencode(f"{username}:{password}")).decode()

    def act(handler: "Handler", blob: Blob) -> None:
        if handler.headers.get("Authorization") == expected:
            handler.serve(blob)
        else:
            handler.answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="here"'})

    return act


@dataclass
class Registry:
    """A registry that runs. `base` is its URL, `host` its `HOST:PORT`."""

    base: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    tokens: Callable[[Request], tuple[int, Json]] = lambda request: (200, {"token": "t0ken"})
    """What `/token` answers."""
    has_referrers: bool = True
    states_digests: bool = False
    """Whether it states the digest of what it sends, which containerd relies on; otherwise a wrong one."""
    page: int = 1000
    """Most tags in an answer."""
    blobs: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Of each repository, by digest."""
    manifests: dict[str, dict[str, Blob]] = field(default_factory=dict)
    """Of each repository, by tag and by digest."""
    files: dict[str, Blob] = field(default_factory=dict)
    """Of a web server, by path."""
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return urlsplit(self.base).netloc

    @property
    def sent(self) -> list[Request]:
        """The requests for blobs."""
        return [request for request in self.requests if "/blobs/" in request.path]

    def add(self, repository: str, files: Files) -> str:
        """Take in the files of a layout; return the reference of its images without a tag."""
        blobs = self.blobs.setdefault(repository, {})
        manifests = self.manifests.setdefault(repository, {})
        for path, data in files.items():
            if path.startswith("blobs/"):
                blobs[path.removeprefix("blobs/").replace("/", ":")] = data
        for descriptor in json.loads(files["index.json"])["manifests"]:
            tag = descriptor.get("annotations", {}).get(REF_NAME)
            manifests[tag or descriptor["digest"]] = Blob(blobs[descriptor["digest"]], descriptor["mediaType"])
        return f"docker://{self.host}/{repository}"

    def fault(self, act: Act, path: str = "/blobs/", *, times: int = 1_000_000, after: int = 0) -> None:
        """Let something go wrong from now on."""
        self.faults.append(Fault(act, path, times, after))

    def find_manifest(self, repository: str, name: str) -> Blob | None:
        """Return a manifest by tag or digest."""
        known = self.manifests.get(repository, {})
        if name in known:
            return known[name]
        data = self.blobs.get(repository, {}).get(name)
        if data is None:
            return None
        return Blob(data, json.loads(data).get("mediaType", MANIFEST))


class Handler(BaseHTTPRequestHandler):
    """Answers requests."""

    protocol_version = "HTTP/1.1"
    registry: Registry

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base has it
        """Keep quiet."""

    def do_GET(self) -> None:
        self.take()

    def do_HEAD(self) -> None:
        self.take()

    def do_POST(self) -> None:
        self.take()

    def do_PUT(self) -> None:
        self.take()

    def do_DELETE(self) -> None:
        self.take()

    def take(self) -> None:
        """Note the request, and answer it, or do what a fault says."""
        began = time.monotonic()
        self.answered = 0
        self.status = 0
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        with self.registry.lock:
            self.registry.requests.append(request)
            fault = next((each for each in self.registry.faults if each.takes(request)), None)
        try:
            if urlsplit(self.path).path == "/token":
                code, document = self.registry.tokens(request)
                self.answer(code, to_json(document))
            elif fault is not None:
                fault.act(self, self.found() or Blob(b""))
            else:
                self.route()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        with self.registry.lock:
            ended, agent = time.monotonic(), request.headers.get("user-agent", "")
            transfer = Transfer(self.path, request.range, began, ended, self.answered, self.status, agent)
            self.registry.transfers.append(transfer)

    def route(self) -> None:
        """Answer as a registry does."""
        if self.command in {"GET", "HEAD"}:
            found = self.found()
            if found is not None:
                self.serve(found)
                return
        elif self.push():
            return
        self.answer(404, to_json({"errors": [{"code": "NAME_UNKNOWN"}]}))

    def found(self) -> Blob | None:
        """Return what the path names."""
        path = urlsplit(self.path).path
        if path in self.registry.files:
            return self.registry.files[path]
        if path == "/v2/":
            return Blob(b"{}")
        if match := re.fullmatch(r"/v2/(.+)/tags/list", path):
            return self.tags(match[1]) if match[1] in self.registry.manifests else None
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|referrers)/([^/]+)", path)
        if match is None:
            return None
        repository, kind, name = match.groups()
        if kind == "manifests":
            return self.registry.find_manifest(repository, name)
        if kind == "referrers":
            return self.referrers(repository, name) if self.registry.has_referrers else None
        data = self.registry.blobs.get(repository, {}).get(name)
        return None if data is None else Blob(data)

    def tags(self, repository: str) -> Blob:
        """Return a page of tags, and the link to the next one."""
        query = parse_qs(urlsplit(self.path).query)
        last = query.get("last", [""])[0]
        following = sorted(tag for tag in self.registry.manifests[repository] if ":" not in tag and tag > last)
        page = following[: self.registry.page]
        link = f'</v2/{repository}/tags/list?n=1000&last={page[-1]}>; rel="next"' if page != following else ""
        return Blob(to_json({"name": repository, "tags": page or None}), "application/json", link)

    def referrers(self, repository: str, subject: str) -> Blob:
        found = []
        for name, data in self.registry.blobs.get(repository, {}).items():
            if data.startswith(b"{") and (document := json.loads(data)).get("subject", {}).get("digest") == subject:
                found.append(
                    {
                        "mediaType": document["mediaType"],
                        "digest": name,
                        "size": len(data),
                        "artifactType": document.get("artifactType") or document["config"]["mediaType"],
                        "annotations": document.get("annotations", {}),
                    }
                )
        return Blob(to_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": found}), INDEX)

    def push(self) -> bool:
        """Take a blob, in one piece, or a manifest; or remove a manifest."""
        parts = urlsplit(self.path)
        if match := re.fullmatch(r"/v2/(.+)/blobs/uploads/", parts.path):
            self.answer(202, b"", {"Location": f"/v2/{match[1]}/blobs/uploads/1?state={SECRET}"})
        elif match := re.fullmatch(r"/v2/(.+)/blobs/uploads/1", parts.path):
            name = parse_qs(parts.query)["digest"][0]
            if digest(self.body) != name:
                self.answer(400, to_json({"errors": [{"code": "DIGEST_INVALID"}]}))
            else:
                self.registry.blobs.setdefault(match[1], {})[name] = self.body
                self.answer(201, b"")
        elif (match := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", parts.path)) and self.command == "PUT":
            self.registry.blobs.setdefault(match[1], {})[digest(self.body)] = self.body
            media_type = self.headers.get("Content-Type", "")
            self.registry.manifests.setdefault(match[1], {})[match[2]] = Blob(self.body, media_type)
            subject = json.loads(self.body).get("subject")
            told = {"OCI-Subject": subject["digest"]} if subject and self.registry.has_referrers else {}
            self.answer(201, b"", told)
        elif match and self.command == "DELETE":
            self.registry.manifests.get(match[1], {}).pop(match[2], None)
            self.registry.blobs.get(match[1], {}).pop(match[2], None)
            self.answer(202, b"")
        else:
            return False
        return True

    def range_of(self, blob: Blob) -> tuple[int, int]:
        """Return the range that is asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(match[1]), min(int(match[2]) + 1, len(blob.data))) if match else (0, len(blob.data))

    def serve(self, blob: Blob, *, cut_at: int | None = None, rate: float | None = None) -> None:
        """Answer with a blob, or the range of it that is asked for."""
        start, end = self.range_of(blob)
        stated = digest(blob.data) if self.registry.states_digests else f"sha256:{'0' * 64}"
        headers = {"Content-Type": blob.media_type, "Docker-Content-Digest": stated} | dict(blob.headers)
        if blob.link:
            headers["Link"] = blob.link
        if start >= end and "Range" in self.headers:
            self.answer(416, b"", {"Content-Range": f"bytes */{len(blob.data)}"})
        elif "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(blob.data)}"
            self.answer(206, blob.data[start:end], headers, cut_at=cut_at, rate=rate)
        else:
            self.answer(200, blob.data, headers, cut_at=cut_at, rate=rate)

    def answer(
        self,
        code: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        *,
        cut_at: int | None = None,
        rate: float | None = None,
    ) -> None:
        """Send an answer."""
        self.status = code
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.answered += len(data)
        if rate is None:
            self.wfile.write(data[:cut_at])
            return
        step = max(int(rate / 50), 1)
        for place in range(0, len(data), step):
            self.wfile.write(data[place : place + step])
            if self.registry.closing.wait(step / rate):
                self.close_connection = True
                return


@contextmanager
def running(context: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> Iterator[Registry]:
    """Run a registry on all IPv4 addresses of this machine if `address` is not a loopback; by TLS with a context."""
    registry = Registry()
    handler = type("BoundHandler", (Handler,), {"registry": registry})

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that speaks no TLS, or goes away, is no error of a test."""

    server = Server(("127.0.0.1" if address == "127.0.0.1" else "0.0.0.0", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    registry.base = f"http{'s' if context else ''}://{address}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield registry
    finally:
        registry.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(*images: Image) -> Iterator[Registry]:
    """Run a registry that has these images in the repository `app`."""
    with running() as registry:
        registry.add("app", layout_files(*images))
        yield registry


def make_certificate(directory: Path, name: str, issuer: Path | None = None, *, of: str = "IP:127.0.0.1") -> Path:
    """Make `name.crt` (and `name.cert`) with `name.key`: a CA, or for `of` by the CA `issuer`."""
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    by = [] if issuer is None else ["-CA", str(issuer), "-CAkey", str(issuer.with_suffix(".key"))]
    what = "basicConstraints=critical,CA:true" if issuer is None else f"subjectAltName={of}"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch",
         "-subj", f"/CN={name}", "-addext", what, "-days", "1", "-keyout", key, "-out", certificate, *by],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate


def let_expire(certificate: Path, issuer: Path) -> None:
    """Make a certificate one that has expired."""
    key, ca = str(certificate.with_suffix(".key")), ["-CA", str(issuer), "-CAkey", str(issuer.with_suffix(".key"))]
    request = ["openssl", "req", "-new", "-key", key, "-subj", "/CN=expired", "-addext", "subjectAltName=IP:127.0.0.1"]
    asked = subprocess.run(request, check=True, capture_output=True).stdout
    sign = ["openssl", "x509", "-req", *ca, "-days", "-1", "-copy_extensions", "copy", "-out", str(certificate)]
    subprocess.run(sign, check=True, capture_output=True, input=asked)
