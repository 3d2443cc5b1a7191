"""The images of one repository in a registry: a tag or a digest resolves to a manifest, a descriptor to a remote blob.

Several endpoints may have the image: mirrors are tried first, and what one lacks, or cannot send now, the next may
have. A manifest is identified by its hash, whatever headers say.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, RegistryError, UnsupportedError
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.sources.reference import Reference
from ocifs.sources.referrers import NewBlob
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.blob import RemoteBlob
from ocifs.sources.registry.configuration import (
    Endpoint,
    configured_name,
    endpoints,
    is_loopback,
    read_configuration,
)
from ocifs.sources.registry.credentials import find_credentials, renewal_of
from ocifs.sources.registry.file import FilePart, FileSession
from ocifs.sources.registry.foreign import ForeignSession, foreign_peers
from ocifs.sources.registry.peer import BlobOrigin, Peer
from ocifs.sources.registry.referrers import list_referrers, push, push_image, remove
from ocifs.sources.registry.session import Session
from ocifs.sources.registry.tags import list_tags
from ocifs.sources.registry.tls import read_certificates
from ocifs.sources.registry.transport import read_all
from ocifs.sources.source import NamedImage
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.manifest import parse_document
from ocifs.spec.mediatypes import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    is_nondistributable,
)

_ACCEPT = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX))

T = TypeVar("T")


class RegistrySource:
    """The repository that a reference names."""

    def __init__(self, sessions: list[Session], limits: Limits = DEFAULT_LIMITS, *, foreign_urls: bool = False) -> None:
        self.limits = limits
        self._foreign_urls = foreign_urls
        self._foreign: list[Session] = []
        self._sessions = sessions
        """In the order to try: the endpoint that had the image comes first."""
        self._configured = tuple(sessions)
        self._manifests: dict[Digest, bytes] = {}
        self._referrers: dict[Digest, list[Descriptor] | OcifsError] = {}

    def resolve(self, reference: Reference) -> tuple[Descriptor, ...]:
        """Return the manifest or index that a tag or a digest names."""
        name = str(reference.digest or reference.tag)
        data = self._first_success(
            lambda session: self._fetch(session, name, reference.digest), "pull" if reference.digest else "resolve"
        )
        digest = reference.digest or Digest.of(data)
        self._manifests[digest] = data
        document = parse_document(data, f"manifest {name} of {self._sessions[0].peer}")
        return (Descriptor(media_type=document.media_type, digest=digest, size=len(data)),)

    def tags(self) -> list[str]:
        """Return the tags of the repository; raises as `list_tags`."""
        return self._first_success(list_tags, "resolve")

    def pinned(self, reference: Reference, digest: Digest) -> str:
        """Return the repository with the digest."""
        return f"docker://{reference.path}@{digest}"

    def images(self) -> tuple[NamedImage, ...]:
        """Raise UnsupportedError: not all registries can list their images."""
        raise UnsupportedError("ocifs does not list the images of a registry: `ocifs tags` lists their tags")

    def referrers(self) -> "RegistrySource":
        """Return itself."""
        return self

    def fetched(self, descriptor: Descriptor) -> bytes | None:
        """Return a manifest that `resolve` has fetched."""
        return self._manifests.get(descriptor.digest)

    def open(self, descriptor: Descriptor) -> RemoteBlob:
        """Return a remote blob; the first read of it sends the first request."""
        is_manifest = descriptor.media_type in MANIFESTS | INDEXES
        path = f"{'manifests' if is_manifest else 'blobs'}/{descriptor.digest}"
        accept = _ACCEPT if is_manifest else None
        foreign: list[Session] = []
        hint = ""
        if is_nondistributable(descriptor.media_type) and descriptor.urls:
            if self._foreign_urls:
                foreign = [ForeignSession(peer) for peer in foreign_peers(descriptor.urls, self._sessions[0].timeouts)]
                self._foreign += foreign
            else:
                hint = " (a foreign layer: --allow-foreign-urls fetches it from where the image says)"
        return RemoteBlob([*self._allowed("pull"), *foreign], path, descriptor.digest, descriptor.size, accept, hint)

    def list_referrers(self, subject: Descriptor, artifact_type: str) -> list[Descriptor]:
        """Return the artifacts of that type whose subject is `subject`."""
        if (found := self._referrers.get(subject.digest)) is None:
            try:
                found = self._listed(subject.digest)
            except OcifsError as error:  # cached, so that a query for the next type fails at once
                found = error
            self._referrers[subject.digest] = found
        if isinstance(found, OcifsError):
            raise found
        return [each for each in found if each.artifact_type == artifact_type]

    def attach(self, subject: Descriptor, manifest: NewBlob, blobs: list[NewBlob]) -> None:
        """Write an artifact to the registry itself, not to a mirror."""
        self._referrers.clear()
        push(self._home(), subject, manifest, blobs)

    def detach(self, subject: Descriptor, manifest: Descriptor) -> None:
        """Remove an artifact from the registry itself."""
        self._referrers.clear()
        remove(self._home(), subject, manifest)

    def put(self, tag: str, manifests: list[NewBlob], blobs: list[NewBlob]) -> None:
        """Write an image to the registry itself; the repository may have some of its blobs."""
        push_image(self._home(), tag, manifests, blobs)

    def close(self) -> None:
        """Close all connections."""
        for session in [*self._sessions, *self._foreign]:
            session.close()

    def _home(self) -> Session:
        """Return the registry itself, or the last endpoint that may be written to."""
        return next(session for session in reversed(self._configured) if session in self._allowed("push"))

    def _allowed(self, capability: str) -> list[Session]:
        """Return the sessions with a capability, in the order to try; raise RegistryError if there are none."""
        allowed = [session for session in self._sessions if capability in session.settings.capabilities]
        if not allowed:
            name = self._sessions[-1].peer.repository
            raise RegistryError(f"hosts.toml allows no host to {capability} {name}: add it to the capabilities of one")
        return allowed

    def _first_success(self, query: Callable[[Session], T], capability: str) -> T:
        """Return the first success; if all endpoints fail, raise the error of the last one, the registry itself.

        Those that have failed come after the one that succeeded from now on.
        """
        allowed = self._allowed(capability)
        for number, session in enumerate(allowed):
            try:
                found = query(session)
            except (NotFoundError, RegistryError, InvalidImageError):
                if session is allowed[-1]:
                    raise
                continue
            waiting = [each for each in self._sessions if each not in allowed[:number]]
            after = waiting.index(session) + 1
            self._sessions[:] = [*waiting[:after], *allowed[:number], *waiting[after:]]
            return found
        raise AssertionError

    def _listed(self, subject: Digest) -> list[Descriptor]:
        """Return the referrers from the first endpoint that has any: a mirror may have copied the image only."""
        allowed = self._allowed("pull")
        for session in allowed:
            try:
                if found := list_referrers(session, subject):
                    return found
            except (NotFoundError, RegistryError, InvalidImageError):
                if session is allowed[-1]:
                    raise
        return []

    def _fetch(self, session: Session, name: str, digest: Digest | None) -> bytes:
        what = f"manifest {name} in {session.peer.repository}"

        def once() -> bytes:
            answer = session.get(f"manifests/{name}", {"Accept": _ACCEPT}, what=what)
            return read_all(answer.response, answer.host, self.limits.document, answer.timeouts)

        data = session.with_retries(once)
        if digest is not None and Digest.of(data, digest.algorithm) != digest:
            raise InvalidImageError(f"{session.peer.host} returned another manifest than {digest}")
        return data


def open_registry(reference: Reference, access: Access, limits: Limits = DEFAULT_LIMITS) -> RegistrySource:
    """Return the source that `reference` names, without sending a request.

    Raises:
        NotFoundError: It is a short name that the configuration does not resolve.
        OcifsError: It is blocked, or a configuration file is malformed.
    """
    for_mirrors = msgspec.structs.replace(access, credentials=None, provided=None, keychain=None)  # mirrors get none
    return RegistrySource(
        [
            open_session(endpoint, for_mirrors if endpoint.is_mirror else access)
            for endpoint in find_endpoints(reference, access)
        ],
        limits,
        foreign_urls=access.allow_foreign_urls,
    )


def find_endpoints(reference: Reference, access: Access) -> list[Endpoint]:
    """Return the endpoints for a reference, by hosts.toml if it has the registry, else by registries.conf.

    A registry that registries.conf blocks is blocked in any case. Raises as `open_registry`.
    """
    configured = read_configuration()
    by_digest = reference.digest is not None
    found = endpoints(reference.path, configured, by_digest=by_digest, tls_verify=access.tls_verify)
    if access.hosts_dir is None:
        return found
    from ocifs.sources.registry.hosts import host_endpoints

    name = configured_name(reference.path, configured)
    return host_endpoints(access.hosts_dir, name, tls_verify=access.tls_verify) or found


def open_session(endpoint: Endpoint, access: Access) -> Session:
    """Return a session for an endpoint; it looks for credentials when the endpoint requires them."""
    certificates = endpoint.certificates
    if certificates is None or access.cert_dir is not None:
        certificates = read_certificates(endpoint.host, access.cert_dir, verify=not endpoint.insecure)
    timeouts = access.timeouts
    if (connect := endpoint.settings.connect) is not None:
        timeouts = msgspec.structs.replace(timeouts, connect=connect)
    peer = Peer(
        host=endpoint.host,
        address=endpoint.address,
        repository=endpoint.repository,
        plain_http=endpoint.insecure or (is_loopback(endpoint.host) and access.tls_verify is not True),
        certificates=certificates,
        timeouts=timeouts,
        settings=endpoint.settings,
        lookup=renewal_of(endpoint, access),
    )
    return Session(peer, lambda: find_credentials(endpoint, access))


def open_origins(origins: Sequence[BlobOrigin]) -> list[Callable[[], RemoteBlob]]:
    """Return a function for each origin that opens its blob; origins in one registry share its connections."""
    sessions: dict[tuple[str, ...], list[Session]] = {}
    lock = threading.Lock()

    def opened(origin: BlobOrigin) -> RemoteBlob:
        with lock:
            key = tuple(peer.url or str(peer) for peer in origin.peers)
            if key not in sessions:
                sessions[key] = [_session(peer) for peer in origin.peers]
            digest = Digest(origin.digest)
            match sessions[key]:
                case [FileSession() as session]:
                    return FilePart(session, digest, origin.size, origin.offset, f"blob {digest}")
                case found:
                    return RemoteBlob(found, origin.path, digest, origin.size)

    return [partial(opened, origin) for origin in origins]


def _session(peer: Peer) -> Session:
    if peer.file is not None:
        return FileSession(peer)
    return ForeignSession(peer) if peer.url else Session(peer)
