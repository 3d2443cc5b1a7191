"""The names of the images that use the entries of the cache, for listings and for `ocifs verify`; no mount needs them.

Beside the entries, the cache has a file for each image that was opened, named by the digest of its manifest: the latest
names on command lines, and the subjects of the entries that it uses. Errors are ignored, and so are entries that an
image gets later, until it is opened again.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from ocifs.atomic import atomic_file
from ocifs.sources.reference import Reference
from ocifs.sources.resolve import ResolvedImage
from ocifs.spec.digest import DiffID, Digest, chain_id
from ocifs.store import Store
from ocifs.trusted_directory import TrustedDirectory

_DIRECTORY = "images"
_MAX_NAMES = 8
_MAX_SUBJECTS = 10_000
_MAX_IMAGES = 1000
"""Files; the oldest above this number are removed."""
_MAX_SIZE = 1 << 20


class _Record(msgspec.Struct, frozen=True):
    """What the cache knows of an image."""

    names: tuple[str, ...] = ()
    """The latest one first."""
    subjects: frozenset[str] = frozenset()


def note_image(store: Store, reference: Reference, resolved: ResolvedImage, made: Iterable[str]) -> None:
    """Record that an image uses its documents, its layers, and the entries `made` of them, given by their subjects.

    Reads one small file, and writes it only if it says something new.
    """
    name = _shown_name(reference)
    subjects = frozenset(made) | {resolved.digest}
    with suppress(OSError, ValueError):
        directory = store.beside(_DIRECTORY, make=True)
        if directory is None:
            return
        file = _file(str(resolved.digest))
        known = _read(directory, file)
        if known.names[:1] == (name,) and subjects <= known.subjects:
            return
        names = (name, *(each for each in known.names if each != name))[:_MAX_NAMES]
        everything = subjects | known.subjects | set(_subjects(resolved))
        if len(everything) <= _MAX_SUBJECTS:
            _write(directory, file, _Record(names, frozenset(map(str, everything))))


def names_by_subject(store: Store) -> dict[str, list[str]]:
    """Return the names of the images that use each entry, by the subject of the entry; sorted."""
    found: dict[str, set[str]] = {}
    with suppress(OSError):
        directory = store.beside(_DIRECTORY)
        for file, _ in directory.files() if directory else ():
            record = _read(directory, file) if directory else _Record()
            for subject in record.subjects:
                found.setdefault(subject, set()).update(record.names)
    return {subject: sorted(names) for subject, names in found.items()}


def subjects_of(store: Store, image: Digest) -> frozenset[str]:
    """Return the subjects of the entries that an image, given by the digest of its manifest, is known to use."""
    with suppress(OSError):
        if (directory := store.beside(_DIRECTORY)) is not None:
            return _read(directory, _file(image)).subjects
    return frozenset()


def forget_unused(store: Store) -> None:
    """Remove the files about images of which the cache has no entry any more."""
    kept = {_plain(entry.subject) for entry in store.entries()}
    with suppress(OSError):
        directory = store.beside(_DIRECTORY)
        for file, _ in directory.files() if directory else ():
            if directory and not kept & _read(directory, file).subjects:
                directory.unlink(file)


def names_of(subject: str, names: dict[str, list[str]]) -> list[str]:
    """Return the names for the subject of an entry; that of a partial blob ends in its size."""
    return names.get(_plain(subject), [])


def _plain(subject: str) -> str:
    return subject.partition("-")[0]


def _subjects(resolved: ResolvedImage) -> Iterable[str]:
    """Yield what may name entries of an image: digests of documents and blobs, and the chain IDs of its layers."""
    yield resolved.descriptor.digest
    yield resolved.manifest.config.digest
    chain: DiffID | None = None
    for layer in resolved.layers:
        yield layer.descriptor.digest
        chain = DiffID(chain_id([chain, layer.diff_id] if chain else [layer.diff_id]))
        yield chain


def _shown_name(reference: Reference) -> str:
    """Return the reference with an absolute path."""
    if not reference.is_path:
        return reference.text
    before, path, after = reference.text.partition(reference.path)
    return f"{before}{os.path.abspath(path)}{after}"


def _file(digest: str) -> str:
    return f"{digest.replace(':', '-')}.json"


def _read(directory: TrustedDirectory, file: str) -> _Record:
    """Return a record; an empty one if there is none, or it is damaged."""
    try:
        return msgspec.json.decode(directory.read_file(file, _MAX_SIZE), type=_Record)
    except (OSError, ValueError):
        return _Record()


def _write(directory: TrustedDirectory, file: str, record: _Record) -> None:
    with atomic_file(directory.fd, file, 0o600) as out:
        out.write(msgspec.json.encode(record))
    files = sorted(directory.files(), key=lambda each: each[1].st_mtime_ns)
    for name, _ in files[:-_MAX_IMAGES]:
        directory.unlink(name)
