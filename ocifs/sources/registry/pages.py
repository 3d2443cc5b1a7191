"""Lists that a registry sends in pages; the `Link` header of each page names the next one (RFC 8288).

A server decides how many pages it sends, so the caller bounds them. A link may lead to another path or host; no other
host gets credentials (`Session.request`).
"""

import re
from collections.abc import Iterator, Mapping

from ocifs.errors import RegistryError
from ocifs.limits import DEFAULT_LIMITS
from ocifs.sources.registry.session import Session
from ocifs.sources.registry.transport import read_all

_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


def read_page(session: Session, path: str, headers: Mapping[str, str], what: str) -> tuple[bytes, str]:
    """Return a document, and the location of the next page, which is empty after the last one; raises as `get`."""

    def once() -> tuple[bytes, str]:
        answer = session.get(path, headers, what=what)
        link = _NEXT.search(answer.response.headers.get("Link", ""))
        return read_all(answer.response, answer.host, DEFAULT_LIMITS.document, answer.timeouts), link[1] if link else ""

    return session.with_retries(once)


def read_pages(session: Session, path: str, headers: Mapping[str, str], what: str, most: int) -> Iterator[bytes]:
    """Yield the documents of all pages.

    Raises:
        RegistryError: There are more than `most` pages; and as `Session.get`.
    """
    for _ in range(most):
        data, path = read_page(session, path, headers, what)
        yield data
        if not path:
            return
    raise RegistryError(f"{session.peer.host} sends {what} in more than {most} pages: refused")
