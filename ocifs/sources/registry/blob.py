"""A blob, or a manifest, where it lies: in a registry. Any piece of it can be fetched, or all of it as it comes.

Whatever is wrong with an answer (a cut, other bytes than were asked for, an encoding) is tried again at the byte where
it ended, within the budget of `session`. That the bytes are those of the digest is for the reader to prove.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ocifs.errors import InvalidImageError, NotFoundError, RegistryError
from ocifs.sources.registry.peer import NoRangesError, Origin
from ocifs.sources.registry.session import Patience, Session
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
        self._sessions = list(sessions)
        self._path = path
        self._headers: Mapping[str, str] = {} if accept is None else {"Accept": accept}
        self._what = f"{path.partition('/')[0].removesuffix('s')} {digest}{hint}"

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`.

        Raises:
            NotFoundError: The registry does not have it.
            NoRangesError: The registry gives all of it or nothing.
            InvalidImageError: The registry has something of another size.
            RegistryError: It cannot be got.
        """
        return b"".join(self._pieces(offset, min(offset + size, self.size), whole_will_do=False))

    def stream(self, start: int = 0) -> Iterator[bytes]:
        """Give all of it from `start` on, in pieces as they come. Raises what `pread` does, but for `NoRangesError`."""
        return self._pieces(start, self.size, whole_will_do=True)

    def distrust(self) -> bool:
        """Leave out the endpoint that gave wrong bytes; False if there is no other."""
        if len(self._sessions) > 1:
            del self._sessions[0]
            return True
        return False

    def origin(self) -> Origin:
        """Where it is, for another process."""
        peers = tuple(session.peer for session in self._sessions)
        return Origin(peers=peers, path=self._path, digest=str(self.digest), size=self.size)

    def _pieces(self, start: int, end: int, *, whole_will_do: bool) -> Iterator[bytes]:
        """Give the bytes from `start` to `end`, from one endpoint after the other."""
        place = start
        sessions = list(self._sessions)
        for session in sessions:
            patience = Patience(session)
            while place < end:
                try:
                    for piece in self._asked(session, place, end, whole_will_do=whole_will_do):
                        place += len(piece)
                        yield piece
                        if whole_will_do:  # a read has one budget, a long stream a new one for each piece
                            patience.renew()
                except (NotFoundError, RegistryError, InvalidImageError) as error:
                    if isinstance(error, TransientError) and patience.lasts(error):
                        continue
                    if session is sessions[-1]:
                        raise
                    break
            if place >= end:
                return

    def _asked(self, session: Session, start: int, end: int, *, whole_will_do: bool) -> Iterator[bytes]:
        """Ask for the bytes from `start` to `end`, and give them as far as they come."""
        # The end is always said: some registries answer an open range with 416.
        ranged = {} if (start, end) == (0, self.size) else {"Range": f"bytes={start}-{end - 1}"}
        response, host = session.get(self._path, {**self._headers, **ranged}, what=self._what)
        complete = False
        try:
            place = self._begin(response, host, start, end)
            if place != start and not whole_will_do:
                raise NoRangesError(f"{host} gives whole blobs only")
            for piece in body(response, host):
                useful = piece[max(start - place, 0) : end - place]
                place += len(piece)
                if useful:
                    yield useful
                if place >= end:
                    break
            if place < end:
                raise TransientError(f"{host} gave {place} of {self.size} bytes of {self._what}")
            complete = place == end
        finally:
            if complete and response.length_remaining == 0:
                response.drain_conn()
                response.release_conn()
            else:
                response.close()

    def _begin(self, response: "BaseHTTPResponse", host: str, start: int, end: int) -> int:
        """Return the offset at which the body begins. Raises TransientError where it is of something else."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise TransientError(f"{host} gave {self._what} in an encoding that was not asked for")
        length = response.length_remaining
        if response.status != 206:
            if length not in {None, self.size}:
                raise self._other_size(host)
            return 0
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match and match[3] not in {"*", str(self.size)}:
            raise self._other_size(host)
        if match is None or (int(match[1]), int(match[2]) + 1) != (start, end) or length not in {None, end - start}:
            raise TransientError(f"{host} gave another range of {self._what} than asked for")
        return start

    def _other_size(self, host: str) -> InvalidImageError:
        return InvalidImageError(f"{host} has a {self._what} of another size than its descriptor says")
