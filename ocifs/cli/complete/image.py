"""An image as far as the cache and its documents know it: tags, layers, names of files. Nothing is indexed or fetched.

Every method raises OcifsError or OSError if the image is not there, is malformed, or its tree is not in the cache.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path

from ocifs.cli.complete.model import ELSEWHERE, Completion
from ocifs.erofs import format as erofs
from ocifs.erofs.reader import TreeImage
from ocifs.errors import NotFoundError, UnsupportedError
from ocifs.image.kinds import CHANGES, TREE
from ocifs.image.lookup import PathError, lookup
from ocifs.limits import DEFAULT_LIMITS
from ocifs.sources.reference import Reference, parse_reference
from ocifs.sources.referrers import Referrers
from ocifs.sources.resolve import ResolvedImage, open_source, resolve_image
from ocifs.sources.source import DocumentSource, NamedImage, descriptor_of, read_document
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest, chain_id
from ocifs.spec.platform import Platform
from ocifs.store import Store, StoredFile, default_directory

_HELP_MAX = 60
_NAME_MAX = 255


class Lookup:
    """What is known of the image that a command line names, with the options given so far."""

    def __init__(self, image: str, options: Mapping[str, str]) -> None:
        self._image = os.path.expanduser(image) if image.startswith("~/") else image
        self._options = options

    def tags(self) -> tuple[int, list[str]]:
        """Return how many characters of the image's name are the beginning of a tag, and the tags there.

        A name that ends in another one of the same image is offered once it is begun.
        """
        reference = parse_reference(f"{self._image}x")  # the tag may still be empty
        if reference.tag is None or not reference.is_path:
            return 0, []
        typed = len(reference.tag) - 1
        with closing(open_source(reference, follow_links="--follow-links" in self._options)) as source:
            names = {name for own in source.names() for name in own if typed or not _is_long(name, own)}
        return typed, sorted(names)

    def layers(self) -> Iterator[Completion]:
        """Yield the numbers of the layers, each with the command that made it."""
        steps = [step for step in self._resolved.config.history if not step.empty_layer]
        for number in range(len(self._resolved.layers)):
            step = steps[number].created_by if number < len(steps) else ""
            yield Completion(str(number), "".join(filter(str.isprintable, step))[:_HELP_MAX])

    def entries(self, directory: str, start: str, limit: int) -> list[tuple[str, bool]]:
        """Return (name, whether it is a directory) of the files whose names begin with `start`, in order.

        Of more than `limit`, they are the first ones and the last, so their common beginning is that of all. Names with
        a dot at the beginning are left out unless `start` has it.
        """
        tree, parent = self._tree, os.fsencode(directory)
        found = _names(tree, lookup(tree, parent), os.fsencode(start), limit)
        return [
            (text, _is_directory(tree, parent + b"/" + name, file_type))
            for name, file_type in found
            if (text := name.decode("utf-8", "replace")).isprintable() and "\ufffd" not in text
        ]

    @cached_property
    def _resolved(self) -> ResolvedImage:
        reference = parse_reference(self._image)
        if not reference.is_path and reference.transport != "docker":
            raise NotFoundError(f"{reference} is left for the command")
        platform = self._options.get("--platform")
        source: DocumentSource
        if reference.transport == "docker":
            source = _CachedRegistry(self._store)
        else:
            source = open_source(reference, follow_links="--follow-links" in self._options)
        with closing(source):
            return resolve_image(source, reference, Platform.parse(platform) if platform else None)

    @cached_property
    def _store(self) -> Store:
        directory = self._options.get("--cache-dir") or os.environ.get("OCIFS_CACHE_DIR")
        return Store.existing(Path(directory) if directory else default_directory())

    @cached_property
    def _tree(self) -> TreeImage:
        """The names of the files, mapped from the cache without a check of all bytes: it is only shown.

        Raises NotFoundError if it is not in the cache.
        """
        resolved = self._resolved
        count, kind = len(resolved.layers), TREE
        for option in ("--layer", "--only-layer"):
            if option in self._options:
                number = int(self._options[option])
                count = number + 1 + (count if number < 0 else 0)
                kind = TREE if option == "--layer" else CHANGES
        if not 0 < count <= len(resolved.layers):
            raise NotFoundError(f"{resolved.name} has no such layer")
        chain = chain_id([layer.diff_id for layer in resolved.layers[:count]])
        file = self._store.load(kind._replace(checked=False, sealed=False), chain)
        if file is None:
            raise NotFoundError(f"{resolved.name} is not indexed")
        try:
            return TreeImage(file.map(), None)
        finally:
            file.close()


class _CachedRegistry(DocumentSource):
    """The documents of registry images that are in the cache. The records of mounts say what a tag means."""

    limits = DEFAULT_LIMITS

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: list[StoredFile] = []

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        digest = reference.digest or _mounted_digest(reference)
        return (descriptor_of(self._open(digest), digest, f"manifest {digest}", self.limits),)

    def document(self, descriptor: Descriptor) -> bytes:
        return read_document(lambda each: self._open(each.digest), descriptor, self.limits)

    def images(self) -> tuple[NamedImage, ...]:
        raise UnsupportedError("the cache does not list images")

    def referrers(self) -> Referrers:
        raise UnsupportedError("the cache holds no artifacts")

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _open(self, digest: Digest) -> StoredFile:
        from ocifs.blobs.download import BLOB

        file = self._store.load(BLOB, digest)
        if file is None:
            raise NotFoundError(f"{digest} is not in the cache")
        self._files.append(file)
        return file


def _is_long(name: str, names: tuple[str, ...]) -> bool:
    """Whether another name of the same image is the end of `name`."""
    return any(name.endswith((f"/{other}", f":{other}")) for other in names)


def known_images_elsewhere() -> list[str]:
    """Return the references of the mounted images that are not in a file or directory of this machine."""
    from ocifs.mount.record import list_mounts

    return sorted({each.image for each in list_mounts() if each.image.startswith(ELSEWHERE)})


def _mounted_digest(reference: Reference) -> Digest:
    from ocifs.mount.record import list_mounts

    for each in list_mounts():
        if each.image == reference.text:
            return Digest(each.digest)
    raise NotFoundError(f"{reference} is not mounted")


def _names(tree: TreeImage, nid: int, prefix: bytes, limit: int) -> list[tuple[bytes, int]]:
    """Return (name, file type) of the first entries of a directory with that prefix, and of the last one."""
    found: list[tuple[bytes, int]] = []
    for name, _, file_type, _ in tree.readdir(nid, tree.cookie(nid, prefix)):
        if name.startswith(prefix) and not (name.startswith(b".") and not prefix) and name not in {b".", b".."}:
            if len(found) >= limit:
                found[-1] = _last(tree, nid, prefix)
                break
            found.append((name, file_type))
        elif name > prefix and not name.startswith(prefix):
            break
    return found


def _last(tree: TreeImage, nid: int, prefix: bytes) -> tuple[bytes, int]:
    end = prefix + b"\xff" * _NAME_MAX
    entries = tree.readdir(nid, tree.cookie(nid, end))
    return [(name, file_type) for name, _, file_type, _ in entries if name.startswith(prefix)][-1]


def _is_directory(tree: TreeImage, path: bytes, file_type: int) -> bool:
    if file_type != erofs.SYMLINK:
        return file_type == erofs.DIRECTORY
    with suppress(PathError):
        return stat.S_ISDIR(tree.inode(lookup(tree, path)).mode)
    return False
