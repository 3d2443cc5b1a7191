"""The tags of a repository in a registry (distribution spec, "Listing Tags")."""

import re

import msgspec

from ocifs.errors import RegistryError
from ocifs.sources.registry.pages import read_pages
from ocifs.sources.registry.session import Session
from ocifs.spec.document import decode, shown

_PAGE = 1000
"""Tags to ask for at once; registries may send fewer."""
_PAGES = 1000
"""Most pages; registries that send only some tens at once still list `_MOST`."""
_MOST = 100_000
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


class _Tags(msgspec.Struct, frozen=True):
    tags: tuple[str, ...] = ()


def list_tags(session: Session) -> list[str]:
    """Return the tags, each once, in the order of the registry.

    Raises:
        NotFoundError: There is no such repository.
        RegistryError: The registry refuses, sends more than 100,000 tags or 1000 pages, or something that is not a tag.
    """
    what = f"list of tags of {session.peer.repository}"
    found: dict[str, None] = {}
    for page in read_pages(session, f"tags/list?n={_PAGE}", {"Accept": "application/json"}, what, _PAGES):
        for tag in decode(page, _Tags, what).tags:
            if not _TAG.fullmatch(tag):
                raise RegistryError(f"{session.peer.host} lists '{shown(tag, 40)}', which is not a tag: refused")
            found[tag] = None
        if len(found) > _MOST:
            raise RegistryError(f"{session.peer.host} sends more than {_MOST} tags: refused")
    return list(found)
