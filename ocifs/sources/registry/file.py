"""A file at a URL that the user has typed: any range of it, as long as the server still has the same file.

A server names a version of a file by its length, its ETag and its Last-Modified date (RFC 9110, sections 8.6 and 8.8).
Every response is compared with the version that was opened, before a byte of it is used, so bytes of two versions never
mix. The user chose the URL, so it may be on a private network and without TLS; redirects follow the rules of `session`.
Credentials are sent to the host in the URL only, when it asks for Basic authentication.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, RegistryError
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.authorization import parse_challenges
from ocifs.sources.registry.blob import RemoteBlob
from ocifs.sources.registry.peer import Credentials, FileVersion, Peer
from ocifs.sources.registry.session import RegistryResponse, Session
from ocifs.sources.registry.tls import read_certificates
from ocifs.sources.registry.transport import body
from ocifs.sources.registry.url import Url, parse_url
from ocifs.spec.digest import Digest
from ocifs.spec.document import shown

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

HEAD = 64 << 10
"""Bytes of the first request."""

_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_LENGTH = re.compile(r"[0-9]{1,18}")
_MAX_VALIDATOR = 1024


class OpenedFile(NamedTuple):
    """A file as the first response describes it."""

    version: FileVersion
    head: bytes
    """Its first bytes, `HEAD` of them or all; empty if the server sends only whole files."""
    has_ranges: bool


class FileSession(Session):
    """A session for the file at `peer.url`. Responses of another version than `peer.file` are errors."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        self._url_of_file = parse_url(peer.url or "", "the reference has")
        self._scheme = self._url_of_file.scheme

    @property
    def url(self) -> str:
        """The URL of the file."""
        return str(self._url_of_file)

    def get(self, path: str, headers: Mapping[str, str], *, what: str) -> RegistryResponse:
        """Request the file once, whatever `path` is; raises as `Session.get`, and InvalidImageError if it changed."""
        response, host, timeouts = self._exchange("GET", self._url_of_file, headers, what=what, actions="")
        if self._peer.file is not None and not is_same(self._peer.file, version_of(response)):
            response.close()
            raise InvalidImageError(
                f"{what} has changed on {host} since it was opened: run the command again, and mount the image again "
                "if it is mounted"
            )
        return RegistryResponse(response, host, timeouts)

    def first(self, what: str) -> OpenedFile:
        """Request the beginning of the file, and learn which version it is.

        Raises:
            NotFoundError: There is no such file.
            InvalidImageError: It is empty.
            RegistryError: The server does not send it.
        """
        return self.with_retries(lambda: self._first(what))

    def pinned(self, version: FileVersion) -> "FileSession":
        """Return a session for this version of the file."""
        return FileSession(replace(self.peer, file=version))

    def whole(self, what: str) -> Iterator[bytes]:
        """Yield the whole file in one attempt; for a server that does not state its length."""
        response, host, timeouts = self.get("", {}, what=what)
        with closing(response):
            yield from body(response, host, timeouts)

    def _first(self, what: str) -> OpenedFile:
        response, host, timeouts = self.get("", {"Range": f"bytes=0-{HEAD - 1}"}, what=what)
        with closing(response):
            version = version_of(response)
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status != 206 or match is None or int(match[1]) != 0:
                if version.size == 0:
                    raise _empty(what, host)
                return OpenedFile(version, b"", has_ranges=False)
            data = b""
            for piece in body(response, host, timeouts):
                data += piece
                if len(data) >= HEAD:  # whatever the server sends after its range
                    break
        data = data[:HEAD]
        if len(data) != min(HEAD, int(match[3])):
            raise RegistryError(f"{host} sent {len(data)} bytes of {what}, another range than requested")
        return OpenedFile(version, data, has_ranges=True)

    def _authorize(self, headers: Mapping[str, str], url: Url, actions: str) -> None:
        """Answer a challenge for Basic authentication; a web server does not issue tokens for repositories."""
        challenges = parse_challenges(headers.get("WWW-Authenticate", ""))
        if not any(each.scheme == "basic" for each in challenges) or self._peer.credentials is None:
            raise RegistryError(f"{url.authority} requires a login: use --creds USER:PASSWORD")
        self._authorization.answer({"WWW-Authenticate": "Basic"}, url, actions)

    def _failure(self, response: "BaseHTTPResponse", code: str, url: Url, what: str) -> OcifsError:
        if response.status == 416:
            if response.headers.get("Content-Range", "").endswith("/0"):
                return _empty(what, url.authority)
            return InvalidImageError(f"{what} has changed on {url.authority} since it was opened: it is shorter now")
        if response.status in {404, 410}:
            return NotFoundError(f"{url.authority} has no such file: {what}")
        if response.status in {401, 403}:
            return RegistryError(
                f"{url.authority} refuses {what}: status {response.status}: check the URL, or use --creds USER:PASSWORD"
            )
        return super()._failure(response, code, url, what)


class FilePart(RemoteBlob):
    """A part of such a file, or all of it, as a blob; `name` is for errors."""

    def __init__(self, session: FileSession, digest: Digest, size: int, offset: int, name: str) -> None:
        super().__init__([session], "", digest, size)
        self._offset = offset
        self._whole = (session.file and session.file.size) or size
        self._what = name


def open_file(text: str, access: Access) -> FileSession:
    """Return a session for the file at a URL, without sending a request.

    Raises:
        RegistryError: The URL is malformed, or contains credentials.
        OcifsError: A certificate cannot be read.
    """
    url = parse_url(text, "the reference has")
    if url.userinfo:
        raise RegistryError("the URL contains credentials, which other users can see: use --creds USER:PASSWORD")
    return FileSession(
        Peer(
            host=url.authority,
            address=url.authority,
            repository="",
            plain_http=url.scheme == "http",
            certificates=read_certificates(url.authority, access.cert_dir, verify=access.tls_verify is not False),
            credentials=_credentials(access),
            url=str(url),
            timeouts=access.timeouts,
        )
    )


def name_of(text: str) -> str:
    """Return a URL for messages: without its query, which may contain a signature."""
    return shown(text.partition("?")[0].partition("#")[0], 200)


def version_of(response: "BaseHTTPResponse") -> FileVersion:
    """Return the version of the file that a response belongs to."""
    headers = response.headers
    total: str | None = None
    if response.status == 206:
        match = _RANGE.fullmatch(headers.get("Content-Range", ""))
        total = match[3] if match else None
    elif _LENGTH.fullmatch(headers.get("Content-Length", "")):
        total = headers["Content-Length"]
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    return FileVersion(
        size=None if total is None else int(total),
        etag=etag if len(etag) <= _MAX_VALIDATOR else "",
        modified=modified if len(modified) <= _MAX_VALIDATOR else "",
    )


def is_same(opened: FileVersion, other: FileVersion) -> bool:
    """Return whether a response has the version that was opened, as far as it says; a 206 need not repeat a date."""
    return (
        opened.size in {None, other.size}
        and opened.etag == other.etag
        and (not opened.modified or not other.modified or opened.modified == other.modified)
    )


def _credentials(access: Access) -> Credentials | None:
    if access.credentials is None:
        return None
    username, _, password = access.credentials.partition(":")
    return Credentials(username, password)


def _empty(what: str, host: str) -> InvalidImageError:
    return InvalidImageError(f"{what} on {host} is empty: it is not an archive of images")
