"""A Docker engine from literals, on a unix socket: what the engine API answers about images, and what goes wrong."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.images import Image, config_of, digest, docker_files, tar, to_json


@dataclass
class Engine:
    """An engine that runs. `address` is its DOCKER_HOST."""

    address: str = ""
    images: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """By name: the ID, and the archive."""
    requests: list[str] = field(default_factory=list)
    answer: "Callable[[Handler], bool]" = lambda handler: False
    """Answers a request instead, and returns True; or returns False."""

    def add(self, name: str, image: Image) -> str:
        """Take in an image under a name; return its ID."""
        image_id = digest(to_json(config_of(image)))
        self.images[name] = (image_id, tar(dict(docker_files((image, [name])))))
        return image_id

    def find(self, name: str) -> tuple[str, bytes] | None:
        by_id = {image_id: (image_id, saved) for image_id, saved in self.images.values()}
        return self.images.get(name) or self.images.get(f"{name}:latest") or by_id.get(name)


class Handler(BaseHTTPRequestHandler):
    """Answers requests as Docker does: documents by length, archives in chunks."""

    protocol_version = "HTTP/1.1"
    engine: Engine

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base has it
        """Keep quiet."""

    def address_string(self) -> str:
        return "socket"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.engine.requests.append(path)
        if self.engine.answer(self):
            return
        if path == "/images/json":
            (pattern,) = json.loads(parse_qs(urlsplit(self.path).query)["filters"][0])["reference"]
            listed = [
                {"Id": image_id, "RepoTags": [name], "Size": 1}
                for name, (image_id, _) in self.engine.images.items()
                if name.startswith(f"{pattern}:")
            ]
            self.document(200, listed)
            return
        name, _, verb = path.removeprefix("/images/").rpartition("/")
        found = self.engine.find(name)
        if found is None:
            self.document(404, {"message": f"No such image: {name}"})
        elif verb == "json":
            self.document(200, {"Id": found[0], "RepoTags": [name], "Size": len(found[1]), "Os": "linux"})
        else:
            self.chunks(found[1])

    def document(self, code: int, document: object) -> None:
        """Send a document."""
        data = to_json(document)
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunks(self, data: bytes, *, end: bool = True) -> None:
        """Send an archive, without its end if `end` is False."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-tar")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for place in range(0, len(data), 50_000):
            piece = data[place : place + 50_000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if end:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


@contextmanager
def running(path: Path) -> Iterator[Engine]:
    """Run an engine that listens on a socket at `path`."""
    engine = Engine(f"unix://{path}")

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that goes away is no error of a test."""

    server = Server(str(path), type("BoundHandler", (Handler,), {"engine": engine}))
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
