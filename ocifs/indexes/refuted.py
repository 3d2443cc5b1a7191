"""The published indexes that a verification has refuted, which are never used again.

The cache has a note for each, named by the published document and its layer, because the document may be right for
another layer. Eviction spares the notes; `ocifs cache clear` removes them. Only the latest 1000 are kept.
"""

from typing import Final

from ocifs.spec.digest import Digest
from ocifs.store import Kind, Store

_REFUTED: Final = Kind("refuted", 1)
_NOTES_MAX: Final = 1000
_REASON_MAX: Final = 2000


def note_refuted(store: Store, published: str, layer: str, reason: str, *, most: int = _NOTES_MAX) -> None:
    """Note that a published index is false for a layer.

    Args:
        store: The cache.
        published: Format and digest of the published document (`Verification.published`).
        layer: Digest of the blob; empty: of a document about the whole image.
        reason: One line that says why; at most 2000 characters are kept.
        most: How many notes to keep, the latest ones.

    Raises:
        StoreError, OSError: The cache cannot be written.
    """
    store.get(_REFUTED, _subject(published, layer), lambda out: out.write(reason[:_REASON_MAX].encode())).close()
    notes = [entry.subject for entry in store.entries() if entry.kind == f"{_REFUTED.name}{_REFUTED.version}"]
    for subject in notes[:-most]:
        store.remove(_REFUTED, subject)


def why_refuted(store: Store, published: str, layer: str = "") -> str | None:
    """Return why a published document is false for a layer, or at all; None: nothing is known against it."""
    subject = _subject(published, layer)
    if not store.has(_REFUTED, subject):
        return None
    if (file := store.load(_REFUTED, subject)) is None:
        return "the note with the reason is damaged"
    try:
        return file.pread(_REASON_MAX * 4, 0).decode(errors="replace")
    finally:
        file.close()


def _subject(published: str, layer: str) -> str:
    return Digest.of(f"{published} {layer}".encode())
