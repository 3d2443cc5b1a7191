"""A blob or a manifest in a registry: any range of it can be fetched, or all of it as a stream.

A bad answer (cut short, another range than requested, an encoding) is requested again from the byte where it ended,
within the budget of `session`. The caller verifies the digest.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ocifs.errors import InvalidImageError, NotFoundError, RegistryError
from ocifs.sources.registry.peer import BlobOrigin, NoRangesError
from ocifs.sources.registry.session import RetryBudget, Session
from ocifs.sources.registry.transport import TransientError, body
from ocifs.spec.digest import Digest

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)")


class RemoteBlob:
    """A `ReaderAt` of `size` bytes, at one of several endpoints. Safe to use from several threads."""

    def __init__(
        self,
        sessions: Sequence[Session],
        path: str,
        digest: Digest,
        size: int,
        accept: str | None = None,
        hint: str = "",
    ) -> None:
        self.digest = digest
        self.size = size
        self._offset = 0
        """Where the blob begins in the file at the URL."""
        self._whole = size
        """Bytes of the file at the URL."""
        self._sessions = list(sessions)
        self._path = path
        self._headers: Mapping[str, str] = {} if accept is None else {"Accept": accept}
        self._what = f"{path.partition('/')[0].removesuffix('s')} {digest}{hint}"

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`.

        Raises:
            NotFoundError: The registry does not have the blob.
            NoRangesError: The registry does not support range requests.
            InvalidImageError: The registry has a blob of another size.
            RegistryError: It cannot be fetched.
        """
        return b"".join(self._pieces(offset, min(offset + size, self.size), accept_whole=False))

    def stream(self, start: int = 0) -> Iterator[bytes]:
        """Yield all bytes from `start` on, as they arrive. Raises what `pread` does except `NoRangesError`."""
        return self._pieces(start, self.size, accept_whole=True)

    def distrust(self) -> bool:
        """Leave out the endpoint that sent wrong bytes; return False if there is no other."""
        if len(self._sessions) > 1:
            del self._sessions[0]
            return True
        return False

    def origin(self) -> BlobOrigin:
        """Return its endpoints and path, for another process."""
        peers = tuple(session.peer for session in self._sessions)
        return BlobOrigin(peers=peers, path=self._path, digest=str(self.digest), size=self.size, offset=self._offset)

    def _pieces(self, start: int, end: int, *, accept_whole: bool) -> Iterator[bytes]:
        """Yield the bytes from `start` to `end`, trying one endpoint after the other."""
        position = start
        sessions = list(self._sessions)
        for session in sessions:
            budget = RetryBudget(session)
            while position < end:
                try:
                    for piece in self._request(session, position, end, accept_whole=accept_whole):
                        position += len(piece)
                        if accept_whole:  # a read has one budget, a stream another one as long as it keeps its pace
                            budget.note(len(piece))
                        began = time.monotonic()
                        yield piece
                        budget.leave_out(time.monotonic() - began)
                except (NotFoundError, RegistryError, InvalidImageError) as error:
                    if isinstance(error, TransientError) and budget.pause(error):
                        continue
                    if session is sessions[-1]:
                        raise
                    break
            if position >= end:
                return

    def _request(self, session: Session, start: int, end: int, *, accept_whole: bool) -> Iterator[bytes]:
        """Request the bytes from `start` to `end`, and yield them as far as they arrive."""
        # Always state the end: some registries answer an open range with 416.
        start, end = start + self._offset, end + self._offset
        ranged = {} if (start, end) == (0, self._whole) else {"Range": f"bytes={start}-{end - 1}"}
        response, host, timeouts = session.get(self._path, {**self._headers, **ranged}, what=self._what)
        complete = False
        try:
            position = self._begin(response, host, start, end)
            if position != start and not accept_whole:
                raise NoRangesError(f"{host} does not support range requests")
            for piece in body(response, host, timeouts):
                useful = piece[max(start - position, 0) : end - position]
                position += len(piece)
                if useful:
                    yield useful
                if position >= end:
                    break
            if position < end:
                raise TransientError(f"{host} sent {position - self._offset} of {self.size} bytes of {self._what}")
            complete = position == end
        finally:
            if complete and response.length_remaining == 0:
                response.drain_conn()
                response.release_conn()
            else:
                response.close()

    def _begin(self, response: "BaseHTTPResponse", host: str, start: int, end: int) -> int:
        """Return the offset at which the body begins. Raises TransientError if it belongs to another range."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise TransientError(f"{host} sent {self._what} in an encoding that was not requested")
        length = response.length_remaining
        if response.status != 206:
            if length not in {None, self._whole}:
                raise self._other_size(host)
            return 0
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match and match[3] not in {"*", str(self._whole)}:
            raise self._other_size(host)
        if match is None or (int(match[1]), int(match[2]) + 1) != (start, end) or length not in {None, end - start}:
            raise TransientError(f"{host} sent another range of {self._what} than requested")
        return start

    def _other_size(self, host: str) -> InvalidImageError:
        return InvalidImageError(f"{host} has a {self._what} of another size than its descriptor says")
