"""Credentials from pulls of the kubelet, in memory only.

A Pod's imagePullSecrets reach a container runtime in its PullImage requests, and nowhere else. The keychain keeps the
last ones for each repository: at most 1000, and until a day after their last use, because an image may be mounted again
much later. A pull without credentials that succeeds removes older ones. No message and no `repr` shows a secret.
"""

import threading
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec.structs import replace

from ocifs.errors import OcifsError
from ocifs.snapshotter.cri_pb2 import AuthConfig
from ocifs.sources.reference import Reference, canonical, parse_reference, unconfigured
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.peer import Credentials, KeychainEntry

_MOST: Final = 1000
_SECONDS: Final = 24 * 3600.0
_LENGTH_MAX: Final = 64 << 10
"""Most characters of a name or a secret; tokens of cloud providers have some thousands."""


class _Kept(NamedTuple):
    credentials: Credentials
    used: float


class Keychain:
    """Credentials by repository. Safe to use from several threads."""

    def __init__(
        self,
        access: Access,
        socket: str | None = None,
        most: int = _MOST,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`access` has everything else about registries, and the credentials where the keychain has none.

        `socket` is the path at which mounts ask for others.
        """
        self._socket = socket
        self._access = access
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def access(self, reference: Reference) -> Access:
        """Return how to access the registry of an image."""
        name = unconfigured(reference.path, "")[0]
        entry = None if self._socket is None else KeychainEntry(self._socket, name)
        found = self.find(name)
        return (
            self._access if found is None and entry is None else replace(self._access, provided=found, keychain=entry)
        )

    def find(self, name: str) -> Credentials | None:
        """Return the credentials for a repository, if there are any."""
        with self._lock:
            self._expire()
            if (kept := self._kept.get(name)) is None:
                return None
            self._keep(name, kept.credentials)
            return kept.credentials

    def replace(self, name: str, credentials: Credentials | None) -> Credentials | None:
        """Keep other credentials for a repository, or none; return the earlier ones."""
        with self._lock:
            self._expire()
            before = self._kept.pop(name, None)
            if credentials is not None:
                self._keep(name, credentials)
        return before.credentials if before else None

    def restore(self, name: str, failed: Credentials, before: Credentials | None) -> None:
        """Undo `replace`, unless another pull has kept credentials for the repository since."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is None or kept.credentials is not failed:
                return
            del self._kept[name]
            if before is not None:
                self._keep(name, before)

    def _keep(self, name: str, credentials: Credentials) -> None:
        self._kept[name] = _Kept(credentials, self._clock())
        self._kept.move_to_end(name)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def _expire(self) -> None:
        oldest = self._clock() - self._seconds
        while self._kept and next(iter(self._kept.values())).used <= oldest:
            self._kept.popitem(last=False)


def repository_of(image: str) -> str | None:
    """Return the repository that an image of CRI is in, `HOST[:PORT]/REPOSITORY`; None if the name is malformed."""
    try:
        return unconfigured(parse_reference(f"docker://{image}", lambda path: False).path, "")[0]
    except OcifsError:
        return None


def credentials_of(auth: AuthConfig, repository: str) -> Credentials | None:
    """Return the credentials in a request for a repository; None if it has none, or they are for another registry.

    containerd does not use registry tokens, so ocifs does not, either.
    """
    if any(len(each) > _LENGTH_MAX for each in (auth.username, auth.password, auth.auth, auth.identity_token)):
        return None
    if auth.server_address:
        server = auth.server_address.partition("://")[2] or auth.server_address
        if canonical(server.partition("/")[0]) != repository.partition("/")[0]:
            return None
    if auth.username:
        return Credentials(auth.username, auth.password)
    if auth.identity_token:
        return Credentials(identity_token=auth.identity_token)
    try:
        username, colon, password = b64decode(auth.auth, validate=True).decode().partition(":")
    except ValueError:
        return None
    return Credentials(username, password.rstrip("\0")) if colon else None
