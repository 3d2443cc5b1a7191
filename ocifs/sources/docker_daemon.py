"""A Docker engine, or podman's service in its place: which image a name stands for, and the image as an archive.

Source: Docker Engine API, `GET /images/{name}/json`, `GET /images/{name}/get`, `GET /images/json`. The address comes
from DOCKER_HOST, as for the docker command. Every answer but the archive is bounded. An engine is trusted as much as
the reference: the caller verifies that the archive holds the image of the ID that the engine has named.
"""

import http.client
import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, RegistryError, UnsupportedError, printable_path
from ocifs.sources.registry.url import parse_url
from ocifs.sources.timed_response import Pace, TimedResponse
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode, shown

_SOCKET = "/var/run/docker.sock"
_NAME = re.compile(r"[A-Za-z0-9][\w.:/@-]{0,511}", re.ASCII)
_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?", re.ASCII)
_SAVING_SECONDS = 600.0
"""An engine writes all layers to its disk before it sends the first byte of an archive."""
_MAX_ANSWER = 16 << 20
_PIECE = 1 << 20


class EngineImage(msgspec.Struct, frozen=True, rename="pascal"):
    """An image, as described by the engine."""

    id: str
    repo_tags: tuple[str, ...] | None = None
    size: int = 0
    """Bytes of its layers, uncompressed or not."""


class _Refusal(msgspec.Struct, frozen=True):
    message: str = ""


class EngineAddress(NamedTuple):
    """Where an engine listens: the path of a socket, or a host with a port."""

    socket: str | None
    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = None
    patience: float = 30.0
    """Seconds for each answer but an archive."""

    def __str__(self) -> str:
        return printable_path(self.socket) if self.socket is not None else f"{self.host}:{self.port}"

    def inspect(self, name: str) -> EngineImage:
        """Return the image that a name or an ID stands for.

        Raises:
            NotFoundError: The engine has no such image.
            RegistryError: The engine cannot be reached, or refuses.
        """
        with self._get(f"/images/{_checked(name)}/json", f"image {shown(name)}", self.patience) as response:
            image = decode(_all_of(response, self), EngineImage, f"the engine's answer about {shown(name)}")
        Digest(image.id)  # validates it: it will name files in the cache
        return image

    def images(self, repository: str) -> list[EngineImage]:
        """Return the images with a name in `repository`. Raises RegistryError."""
        query = urlencode({"filters": msgspec.json.encode({"reference": [repository]}).decode()})
        with self._get(f"/images/json?{query}", "the list of images", self.patience) as response:
            return decode(_all_of(response, self), list[EngineImage], "the engine's list of images")

    def save(self, image: EngineImage) -> Iterator[bytes]:
        """Yield the archive of an image, in the format of `docker save`.

        Raises:
            NotFoundError: The image is gone.
            RegistryError: The engine stops before the end.
        """
        path = f"/images/{quote(image.id, safe=':')}/get"
        with self._get(path, f"image {image.id}", _SAVING_SECONDS) as response:
            pace = Pace(_SAVING_SECONDS)
            try:
                while piece := pace.read(lambda: response.read1(_PIECE)):
                    yield piece
                    if pace.is_lost:
                        raise TimeoutError
            except (OSError, http.client.HTTPException) as error:
                raise RegistryError(
                    f"the Docker engine at {self} stopped within image {image.id}: {_reason(error)}: try again"
                ) from None

    @contextmanager
    def _get(self, path: str, what: str, seconds: float) -> Iterator[http.client.HTTPResponse]:
        """Yield the response with status 200, a `TimedResponse` of so many `seconds`; `what` names it in errors."""
        with closing(_Connection(self, seconds)) as connection:
            try:
                connection.request("GET", path, headers={"Host": "docker", "User-Agent": "ocifs"})
                response = connection.getresponse()
            except PermissionError:
                raise RegistryError(
                    f"the socket of the Docker engine, {self}, is forbidden: join its group (docker), run as root, or "
                    "name another engine in DOCKER_HOST"
                ) from None
            except (FileNotFoundError, ConnectionRefusedError):
                raise RegistryError(
                    f"no Docker engine listens at {self}: start it, or set DOCKER_HOST, for podman's service to "
                    "unix:///run/user/UID/podman/podman.sock"
                ) from None
            except (OSError, http.client.HTTPException) as error:
                raise RegistryError(f"cannot talk to the Docker engine at {self}: {_reason(error)}") from None
            with closing(response):
                if response.status != 200:
                    raise self._refusal(response, what)
                yield response

    def _refusal(self, response: http.client.HTTPResponse, what: str) -> OcifsError:
        try:
            message = msgspec.json.decode(_all_of(response, self), type=_Refusal).message
        except (OcifsError, ValueError):
            message = ""
        reason = f": {shown(message, 300)}" if message else ""
        if response.status == 404:
            return NotFoundError(f"the Docker engine has no {what}{reason}")
        return RegistryError(f"the Docker engine at {self} refuses {what}: status {response.status}{reason}")


class _Connection(http.client.HTTPConnection):
    """A connection to an engine."""

    response_class = TimedResponse

    def __init__(self, engine: EngineAddress, seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self._engine = engine

    def connect(self) -> None:
        """Connect to the socket or the port."""
        engine = self._engine
        if engine.socket is None:
            self.sock = socket.create_connection((engine.host, engine.port), self.timeout)
            if engine.tls is not None:
                self.sock = engine.tls.wrap_socket(self.sock, server_hostname=engine.host)
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(engine.socket)


def find_engine() -> EngineAddress:
    """Return the engine that DOCKER_HOST names, else the one of the system.

    Raises:
        UnsupportedError: ocifs does not handle its address.
        RegistryError: Its host or its port is invalid.
        OcifsError: A certificate cannot be read.
    """
    address = os.environ.get("DOCKER_HOST", "")
    if not address:
        return EngineAddress(_SOCKET)
    if address.startswith("unix://") and len(address) > len("unix://"):
        return EngineAddress(address.removeprefix("unix://"))
    match = _TCP.fullmatch(address)
    if match is None:
        raise UnsupportedError(
            f"DOCKER_HOST names an engine that ocifs cannot reach, {printable_path(address)}: use unix:///PATH or "
            "tcp://HOST:PORT, or `docker save NAME | ocifs … -`"
        )
    tls = _context() if os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_TLS") else None
    url = parse_url(f"http://{match[1]}:{match[2] or (2376 if tls else 2375)}", "DOCKER_HOST names")
    return EngineAddress(None, url.host.strip("[]"), url.port, tls)


def _context() -> ssl.SSLContext:
    """Return the context for TLS with an engine, from the files in DOCKER_CERT_PATH."""
    directory = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as for registries: docker accepts such CAs
        if (directory / "cert.pem").exists():
            context.load_cert_chain(directory / "cert.pem", directory / "key.pem", password=_no_password)
    except (OSError, ValueError) as error:
        raise OcifsError(
            f"cannot use the certificates in {printable_path(str(directory))}, which DOCKER_CERT_PATH names: {error}"
        ) from None
    if not os.environ.get("DOCKER_TLS_VERIFY"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> str:
    raise ValueError("its key is encrypted")


def _checked(name: str) -> str:
    """Return a name as part of a path; raise NotFoundError for one that no image can have."""
    if not _NAME.fullmatch(name) or "/../" in name:
        raise NotFoundError(f"'{shown(name)}' cannot be the name of an image: write docker-daemon:NAME[:TAG]")
    return quote(name, safe="/:@")


def _all_of(response: http.client.HTTPResponse, engine: EngineAddress) -> bytes:
    try:
        data = response.read(_MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException) as error:
        raise RegistryError(f"the Docker engine at {engine} stopped in its answer: {_reason(error)}") from None
    if len(data) > _MAX_ANSWER:
        raise InvalidImageError(
            f"the Docker engine at {engine} sent an answer of more than {_MAX_ANSWER} bytes: refused"
        )
    return data


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()  # a path that is too long has no strerror
    return "its answer was cut short" if isinstance(error, http.client.IncompleteRead) else "its answer is malformed"
