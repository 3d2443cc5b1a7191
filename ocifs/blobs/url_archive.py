"""An archive of images on a web server: read in place by range requests, or downloaded once as a whole.

An uncompressed tar is read in place: its headers and documents by ranges, its blobs as those of a registry, with the
cache in front of them. The cache has the headers of its members under the version of the file, so a later command reads
the documents only. A compressed archive, and one from a server without ranges, is downloaded once (`kept`).

Bytes of two versions never mix: the session compares each response with the version that was opened, and blobs and
spans have digests.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from ocifs.blobs.caching_source import CachingSource
from ocifs.blobs.kept import Keeping, keep
from ocifs.blobs.source import Source
from ocifs.errors import UnsupportedError
from ocifs.layer.compressed_archive import KIND as DIGEST
from ocifs.reader import BlobReader
from ocifs.sources.archive import Archive, scan_members
from ocifs.sources.magic import compression_of
from ocifs.sources.reference import Reference
from ocifs.sources.referrers import NewBlob, Referrers
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.file import HEAD, FilePart, FileSession, OpenedFile, name_of, open_file
from ocifs.sources.registry.peer import FileVersion
from ocifs.sources.resolve import open_archive
from ocifs.sources.source import LocalSource, NamedImage
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.store import Kind, Writer
from ocifs.toc import Entry
from ocifs.toc.entry import ENTRIES

MEMBERS = Kind("members", 1)
"""The headers of an archive's members as MessagePack, under the version of the file."""

_PAGES = 128
"""Pages of `HEAD` bytes in memory: headers of neighbouring members, and small documents."""


class RemoteTar:
    """An uncompressed tar on a web server; implements `ocifs.sources.archive.TarContent`."""

    def __init__(self, session: FileSession, opened: OpenedFile, name: str, keeping: Keeping) -> None:
        self.size = opened.version.size or 0
        self.name = name
        self.identity = identity_of(opened.version, session)
        """Names the version of the file in the cache; None: the server does not say which version it is."""
        self._session = session
        self._store, self._limits = keeping.store, keeping.limits
        self._whole = self.part(self.identity or Digest.of(b""), 0, self.size)
        self._pages: OrderedDict[int, bytes] = OrderedDict({0: opened.head})

    def entries(self) -> list[Entry]:
        """Return the headers of the members, from the cache if it has them."""
        if self.identity is None:
            return scan_members(self, self.name, self._limits)

        def build(out: Writer) -> None:
            out.write(msgspec.msgpack.encode(scan_members(self, self.name, self._limits)))

        file = self._store.get(MEMBERS, self.identity, build)
        try:
            found = ENTRIES.decode(file.pread(file.size, 0))
        finally:
            file.close()
        if len(found) > self._limits.members:  # an earlier command had other limits
            raise self._limits.passed("members", f"{self.name} has {len(found)} members")
        return found

    def section(self, offset: int, size: int) -> "RemoteSection":
        """Return a part of it."""
        return RemoteSection(self, offset, size)

    def part(self, digest: Digest, offset: int, size: int) -> FilePart:
        """Return a part of it as a blob that can be downloaded."""
        return FilePart(self._session, digest, size, offset, self.name)

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes; small reads fetch and keep whole pages. Raises as `FilePart.pread`."""
        end = min(offset + size, self.size)
        if end - offset > HEAD:
            return self._whole.pread(end - offset, offset)
        if end <= offset:
            return b""
        first = offset // HEAD
        data = b"".join(map(self._page, range(first, (end - 1) // HEAD + 1)))
        return data[offset - first * HEAD : end - first * HEAD]

    def sha256(self, offset: int, size: int) -> Digest:
        """Return the digest of a part, from the cache or by one download of it."""
        part = self.part(Digest.of(b""), offset, size)

        def build(out: Writer) -> None:
            hasher = hashlib.sha256()
            for piece in part.stream():
                hasher.update(piece)
            out.write(f"sha256:{hasher.hexdigest()}".encode())

        subject = Digest.of(f"{self.identity} {offset} {size}".encode())
        file = self._store.get(DIGEST, subject, build, anew=self.identity is None)
        try:
            return Digest(file.pread(100, 0).decode("ascii", "replace"))
        finally:
            file.close()

    def close(self) -> None:
        """Forget all pages."""
        self._pages.clear()

    def _page(self, number: int) -> bytes:
        if (page := self._pages.get(number)) is None:
            page = self._pages[number] = self._whole.pread(HEAD, number * HEAD)
            if len(self._pages) > _PAGES:
                self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(number)
        return page


class RemoteSection:
    """A member of such an archive; implements `BlobReader`."""

    def __init__(self, tar: RemoteTar, offset: int, size: int) -> None:
        self.tar = tar
        self.offset = offset
        self.size = size

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        missing = min(size, self.size - offset)
        return self.tar.pread(missing, self.offset + offset) if missing > 0 else b""

    def will_need(self, size: int, offset: int) -> None:
        """Do nothing: a request for bytes that no reader waits for would delay the others."""


class _RemoteArchive(Archive):
    """An archive of such members."""

    def sha256(self, member: BlobReader) -> Digest:
        """Return the digest of a member."""
        if isinstance(member, RemoteSection):
            return member.tar.sha256(member.offset, member.size)
        return super().sha256(member)


class ArchiveAtUrl:
    """The images of such an archive; implements `ocifs.blobs.caching_source.RemoteSource`."""

    def __init__(self, images: LocalSource, session: FileSession) -> None:
        self.limits = images.limits
        self._images = images
        self._session = session

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return what `reference` names."""
        return self._images.resolve(reference)

    def pinned(self, reference: Reference, digest: Digest) -> str:
        """Return the URL, with the digest if the archive is a layout."""
        return self._images.pinned(reference, digest)

    def images(self) -> tuple[NamedImage, ...]:
        """Return the images in the archive."""
        return self._images.images()

    def tags(self) -> list[str]:
        """Return the names of the images."""
        return self._images.tags()

    def fetched(self, descriptor: Descriptor) -> bytes | None:
        """Return a blob that is not a member of the archive, such as a manifest made for the image."""
        blob = self._images.open(descriptor)
        return None if isinstance(blob, RemoteSection) else blob.pread(blob.size, 0)

    def open(self, descriptor: Descriptor) -> FilePart:
        """Return a blob; the first read of it sends the first request."""
        blob = self._images.open(descriptor)
        assert isinstance(blob, RemoteSection)  # noqa: S101 - `fetched` returns the others
        return blob.tar.part(descriptor.digest, blob.offset, blob.size)

    def referrers(self) -> Referrers:
        """Return itself."""
        return self

    def list_referrers(self, subject: Descriptor, artifact_type: str) -> list[Descriptor]:
        """Return the artifacts in a layout; an archive of `docker save` has none."""
        return self._images.list_referrers(subject, artifact_type)

    def attach(self, subject: Descriptor, manifest: NewBlob, blobs: list[NewBlob]) -> None:
        """Raise UnsupportedError."""
        raise self._read_only()

    def detach(self, subject: Descriptor, manifest: Descriptor) -> None:
        """Raise UnsupportedError."""
        raise self._read_only()

    def put(self, tag: str, manifests: list[NewBlob], blobs: list[NewBlob]) -> None:
        """Raise UnsupportedError."""
        raise self._read_only()

    def close(self) -> None:
        """Close all connections."""
        self._images.close()
        self._session.close()

    def _read_only(self) -> UnsupportedError:
        return UnsupportedError(f"cannot write to {self._images.name}: use a registry or a layout directory")


def open_url(reference: Reference, access: Access, keeping: Keeping) -> Source:
    """Open the archive at the URL of a reference; the caller closes it.

    Raises:
        NotFoundError: There is no such file.
        InvalidImageError: It is not an archive of images.
        UnsupportedError: It is compressed in another way than with gzip or zstd.
        RegistryError: The server cannot be reached, or refuses access.
        LimitError, StoreError: It has to be downloaded as a whole, and is too large.
    """
    name = name_of(reference.path)
    with ExitStack() as undo:
        session = open_file(reference.path, access)
        undo.callback(session.close)
        opened = session.first(name)
        pinned = session.pinned(opened.version)
        undo.callback(pinned.close)
        compression = compression_of(opened.head)
        if compression not in ("tar", "gzip", "zstd"):
            raise UnsupportedError(
                f"{name} is compressed with {compression}, which has no random access: download it, and decompress it "
                f"with `{compression} -d`"
            )
        if not opened.has_ranges or compression != "tar":
            images = _downloaded(pinned, opened, name, reference, keeping)
            pinned.close()
            session.close()
            undo.pop_all()
            return images
        archive = _RemoteArchive(RemoteTar(pinned, opened, name, keeping), name)
        source = ArchiveAtUrl(open_archive(archive, reference.transport, keeping.limits), pinned)
        session.close()
        undo.pop_all()
        return CachingSource(source, keeping.store, keeping.downloading, is_addressed_by_digest=False)


def identity_of(version: FileVersion, session: FileSession) -> Digest | None:
    """Return the name of a version of a file in the cache; None if no header of the server changes with the version."""
    if version.size is None or not (version.etag or version.modified):
        return None
    return Digest.of(repr((session.url, version.size, version.etag, version.modified)).encode())


def _downloaded(
    session: FileSession, opened: OpenedFile, name: str, reference: Reference, keeping: Keeping
) -> LocalSource:
    """Return the images of an archive that is downloaded once as a whole."""
    size = opened.version.size
    identity = identity_of(opened.version, session)

    def arriving() -> Iterator[bytes]:
        if not opened.has_ranges:
            keeping.warn(f"the server of {name} has no range requests: downloading all of it")
        if size is not None and size > keeping.limits.spool:
            raise keeping.limits.passed("spool", f"{name} has {size} bytes")
        shown = identity or Digest.of(name.encode())
        done = 0
        blob = None if size is None else FilePart(session, shown, size, 0, name)
        for piece in session.whole(name) if blob is None else blob.stream():
            done += len(piece)
            keeping.downloading(shown, done, max(size or 0, done))
            yield piece

    file = keep(keeping, identity, arriving, name)
    archive = Archive.within(file, name, keeping.limits, keeping.decompress)
    return open_archive(archive, reference.transport, keeping.limits)
