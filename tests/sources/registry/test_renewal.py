"""Credentials that expire while an image is open: others are looked up where the first ones were found."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from ocifs.errors import RegistryError
from ocifs.mount.record import from_json, to_json
from ocifs.sources.reference import parse_reference
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.authorization import Authorization
from ocifs.sources.registry.blob import RemoteBlob
from ocifs.sources.registry.configuration import Endpoint
from ocifs.sources.registry.credentials import renewal_of
from ocifs.sources.registry.peer import BlobOrigin, CredentialLookup, Credentials, Peer
from ocifs.sources.registry.session import Session
from ocifs.sources.registry.source import open_origins, open_registry
from ocifs.spec.digest import Digest
from tests.images import Image, layout_files
from tests.registry import HASTY, Act, Blob, Handler, Registry, basic, bearer
from tests.waiting import wait_for

DATA = b"0123456789"
PATH = f"blobs/{Digest.of(DATA)}"


class Login:
    """The login that the registry accepts."""

    password = "old"

    def basic(self, handler: Handler, blob: Blob) -> None:
        basic("me", self.password)(handler, blob)

    def expired(self, handler: Handler, blob: Blob) -> None:
        """Refuse as AWS does: 403, without a challenge, if there is a login that does not count any more."""
        if "Authorization" in handler.headers and handler.headers["Authorization"] != _header(self.password):
            handler.answer(403, b"{}")
        else:
            self.basic(handler, blob)

    def token(self, handler: Handler, blob: Blob) -> None:
        handler.registry.tokens = lambda request: (
            (200, {"token": f"token-{self.password}", "expires_in": 600})
            if request.headers.get("authorization") == _header(self.password)
            else (401, {})
        )
        bearer(f"token-{self.password}")(handler, blob)


def _header(password: str) -> str:
    return Credentials("me", password).basic


@pytest.fixture
def login() -> Login:
    return Login()


@pytest.fixture(params=["basic", "expired", "token"])
def guarded(registry: Registry, login: Login, request: pytest.FixtureRequest) -> Registry:
    """A registry that wants the login, in one of the ways of registries."""
    registry.add("app", layout_files(Image()))
    registry.blobs["app"][str(Digest.of(DATA))] = DATA
    act: Act = getattr(login, request.param)
    registry.fault(act, "/v2/app/")
    return registry


@pytest.fixture
def authfile(tmp_path: Path) -> Path:
    return tmp_path / "auth.json"


def log_in(authfile: Path, registry: Registry, password: str) -> None:
    authfile.write_text(json.dumps({"auths": {registry.host: {"username": "me", "password": password}}}))


@contextmanager
def opened(registry: Registry, access: Access) -> Iterator[RemoteBlob]:
    reference = parse_reference(f"docker://{registry.host}/app")
    with closing(open_registry(reference, replace(access, timeouts=HASTY))) as source:
        yield RemoteBlob(source._sessions, PATH, Digest.of(DATA), len(DATA))


def elsewhere(blob: RemoteBlob) -> RemoteBlob:
    """Return the blob as another process has it, which gets a message."""
    (sent,) = open_origins([from_json(to_json(blob.origin()), BlobOrigin)])
    return sent()


@pytest.mark.parametrize("at", [lambda blob: blob, elsewhere], ids=["the command", "its daemon"])
def test_a_new_login_counts_at_once(
    guarded: Registry, login: Login, authfile: Path, at: Callable[[RemoteBlob], RemoteBlob]
) -> None:
    log_in(authfile, guarded, "old")
    with opened(guarded, Access(authfile=authfile)) as first:
        assert first.pread(4, 0) == DATA[:4]
        blob = at(first)
        login.password = "new"
        log_in(authfile, guarded, "new")
        guarded.requests.clear()
        assert blob.pread(4, 2) == DATA[2:6]
        assert len(guarded.requests) <= 6
        guarded.requests.clear()
        assert blob.pread(4, 3) == DATA[3:7]
        assert len(guarded.requests) == 1


def test_reads_fail_until_there_is_a_login(guarded: Registry, login: Login, authfile: Path) -> None:
    log_in(authfile, guarded, "old")
    with opened(guarded, Access(authfile=authfile)) as before:
        before.pread(4, 0)
        blob = elsewhere(before)
    login.password = "new"
    for _ in range(3):
        with pytest.raises(RegistryError, match=r"refuses|log in"):
            blob.pread(4, 0)
    authfile.unlink()

    def fails_without_a_file() -> bool:
        with pytest.raises(RegistryError) as caught:
            blob.pread(4, 0)
        return "refuses the credentials, and there are no others: no such file" in str(caught.value)

    wait_for(fails_without_a_file)  # it looks once a second
    log_in(authfile, guarded, "new")
    read: list[bytes] = []

    def works() -> bool:
        try:
            read.append(blob.pread(4, 0))
        except RegistryError:
            return False
        return True

    wait_for(works)
    assert read == [DATA[:4]]


def test_the_first_login_may_come_later(guarded: Registry, login: Login, alone: Path) -> None:
    """Such as for an image that was public, or whose blobs were in the cache."""
    with opened(guarded, Access()) as blob:
        with pytest.raises(RegistryError, match="requires a login"):
            blob.pread(4, 0)
        later = alone / "runtime/containers/auth.json"
        later.parent.mkdir(parents=True)
        log_in(later, guarded, "old")
        assert elsewhere(blob).pread(4, 0) == DATA[:4]


def test_a_helper_runs_with_the_variables_of_the_command(
    guarded: Registry, login: Login, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the user who has mounted, in another process, whose own HOME and PATH do not count."""
    helper = tmp_path / "bin/docker-credential-x"
    helper.parent.mkdir()
    helper.write_text('#!/bin/sh\nread host\nprintf \'{"Username":"me","Secret":"%s"}\' "$(cat "$HOME/secret")"\n')
    helper.chmod(0o755)
    (alone / ".docker").mkdir()
    (alone / ".docker/config.json").write_text(json.dumps({"credHelpers": {guarded.host: "x"}}))
    (alone / "secret").write_text("old")
    with monkeypatch.context() as command:
        command.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
        with opened(guarded, Access()) as before:
            assert before.pread(4, 0) == DATA[:4]
            blob = elsewhere(before)
    monkeypatch.setenv("HOME", "/nowhere")
    login.password = "new"
    (alone / "secret").write_text("new")
    assert blob.pread(4, 0) == DATA[:4]


def test_given_credentials_stay(guarded: Registry, login: Login, alone: Path) -> None:
    """Those of --creds are the user's choice: a file does not replace them."""
    (alone / ".docker").mkdir()
    log_in(alone / ".docker/config.json", guarded, "new")
    with opened(guarded, Access(credentials="me:old")) as blob:
        assert blob.pread(4, 0) == DATA[:4]
        login.password = "new"
        with pytest.raises(RegistryError, match=r"refuses"):
            elsewhere(blob).pread(4, 0)


def test_one_lookup_serves_all_threads(tmp_path: Path) -> None:
    """A thread whose request was sent with the old credentials uses those that another one has found."""
    authfile = tmp_path / "auth.json"
    authfile.write_text(json.dumps({"auths": {"host.example": {"username": "me", "password": "new"}}}))
    old = Credentials("me", "old")
    peer = Peer(
        host="host.example",
        address="host.example",
        repository="app",
        plain_http=False,
        credentials=old,
        lookup=CredentialLookup(host="host.example", repository="app", files=(str(authfile),), is_named=True),
    )
    now = [0.0]
    with closing(Session(peer)) as session:
        authorization = Authorization(peer, lambda: None, session.transport, clock=lambda: now[0])
        found: list[bool] = []
        threads = [threading.Thread(target=lambda: found.append(authorization.renew(old))) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert found == [True] * 4
        new = Credentials("me", "new")
        assert authorization.credentials == new
        authfile.write_text(json.dumps({"auths": {"host.example": {"username": "me", "password": "newer"}}}))
        assert not authorization.renew(new)  # within a second
        now[0] = 1.0
        assert authorization.renew(new)
        assert authorization.credentials == Credentials("me", "newer")


@pytest.mark.parametrize("at", [lambda blob: blob, elsewhere], ids=["the command", "its daemon"])
def test_a_pipe_is_read_once(
    registry: Registry, login: Login, tmp_path: Path, at: Callable[[RemoteBlob], RemoteBlob]
) -> None:
    """As in `--authfile <(pass show registry)`: nothing waits for a second login there."""
    registry.blobs["app"] = {str(Digest.of(DATA)): DATA}
    registry.fault(login.basic, "/v2/app/")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: log_in(pipe, registry, "old"))
    writer.start()
    with opened(registry, Access(authfile=pipe)) as first:
        assert first.pread(4, 0) == DATA[:4]
        writer.join()
        login.password = "new"
        with pytest.raises(RegistryError, match="refuses"):
            at(first).pread(4, 0)


def test_a_file_that_became_a_pipe(registry: Registry, login: Login, authfile: Path) -> None:
    registry.blobs["app"] = {str(Digest.of(DATA)): DATA}
    registry.fault(login.basic, "/v2/app/")
    log_in(authfile, registry, "old")
    with opened(registry, Access(authfile=authfile)) as blob:
        assert blob.pread(4, 0) == DATA[:4]
        login.password = "new"
        authfile.unlink()
        os.mkfifo(authfile)
        with pytest.raises(RegistryError, match=r"auth\.json is not a file any more"):
            blob.pread(4, 0)


@pytest.mark.parametrize(
    ("access", "again"),
    [
        (Access(), True),
        (Access(authfile=Path("/etc/passwd")), True),
        (Access(authfile=Path("/missing")), False),
        (Access(authfile=Path("/dev/stdin")), False),
        (Access(authfile=Path("/proc/self/mounts")), False),
        (Access(credentials="me:pw"), False),
        (Access(provided=Credentials("me", "pw")), True),
    ],
)
def test_what_can_be_looked_up_again(access: Access, again: bool) -> None:
    assert (renewal_of(Endpoint("host.example", "app", insecure=False), access) is not None) == again
