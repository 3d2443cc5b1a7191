"""Credentials of pulls: which are kept, for which repository, and for how long."""

from base64 import b64encode

import pytest

from ocifs.snapshotter.cri_pb2 import AuthConfig
from ocifs.snapshotter.keychain import Keychain, credentials_of, repository_of
from ocifs.sources.reference import parse_reference
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.configuration import Endpoint
from ocifs.sources.registry.credentials import find_credentials
from ocifs.sources.registry.peer import Credentials

ME = Credentials("me", "secret")
IDENTITY = Credentials(identity_token="token")


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (AuthConfig(username="me", password="secret"), ME),
        (AuthConfig(auth=b64("me:secret")), ME),
        (AuthConfig(auth=b64("me:secret\0")), ME),
        (AuthConfig(auth=b64("me:a:b")), Credentials("me", "a:b")),
        (AuthConfig(identity_token="token"), IDENTITY),
        (AuthConfig(username="me", password="secret", identity_token="token"), ME),
        (AuthConfig(username="me", password="secret", server_address="docker.io"), ME),
        (AuthConfig(username="me", password="secret", server_address="https://index.docker.io/v1/"), ME),
        (AuthConfig(username="me", password="secret", server_address="other.example"), None),
        (AuthConfig(), None),
        (AuthConfig(registry_token="token"), None),
        (AuthConfig(auth="%%"), None),
        (AuthConfig(auth=b64("no colon")), None),
        (AuthConfig(username="me", password="x" * 70_000), None),
    ],
)
def test_forms(auth: AuthConfig, expected: Credentials | None) -> None:
    assert credentials_of(auth, "docker.io/library/debian") == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("debian", "docker.io/library/debian"),
        ("team/app:1", "docker.io/team/app"),
        ("docker.io/library/debian:12", "docker.io/library/debian"),
        ("host:5000/app@sha256:" + "a" * 64, "host:5000/app"),
        ("host.example/app:1@sha256:" + "a" * 64, "host.example/app"),
        ("", None),
        ("../x", None),
        ("host.example/app:1:2", None),
        ("a b", None),
        ("http://x/y", None),
    ],
)
def test_names_of_images(image: str, expected: str | None) -> None:
    assert repository_of(image) == expected


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def used(keychain: Keychain, name: str) -> Credentials | None:
    return keychain.access(parse_reference(f"docker://{name}")).provided


def test_they_are_for_one_repository() -> None:
    base = Access(tls_verify=False)
    keychain = Keychain(base)
    assert keychain.replace("host.example/app", ME) is None
    assert used(keychain, "host.example/app:1") == ME
    assert used(keychain, f"host.example/app@sha256:{'a' * 64}") == ME
    assert keychain.access(parse_reference("docker://host.example/app:1")).tls_verify is False
    assert keychain.access(parse_reference("docker://host.example/other:1")) is base
    assert keychain.replace("host.example/app", IDENTITY) == ME
    assert keychain.replace("host.example/app", None) == IDENTITY
    assert used(keychain, "host.example/app") is None


def test_they_expire_after_their_last_use() -> None:
    clock = Clock()
    keychain = Keychain(Access(), seconds=10, clock=clock)
    keychain.replace("host.example/used", ME)
    keychain.replace("host.example/unused", ME)
    clock.now = 9
    assert used(keychain, "host.example/used") == ME
    clock.now = 11
    assert used(keychain, "host.example/unused") is None
    assert used(keychain, "host.example/used") == ME
    clock.now = 22
    assert used(keychain, "host.example/used") is None


def test_the_least_recently_used_go_first() -> None:
    keychain = Keychain(Access(), most=2)
    for name in ("a", "b"):
        keychain.replace(f"host.example/{name}", ME)
    used(keychain, "host.example/a")
    keychain.replace("host.example/c", ME)
    assert [used(keychain, f"host.example/{name}") for name in "abc"] == [ME, None, ME]


def test_no_repr_shows_them() -> None:
    keychain = Keychain(Access())
    keychain.replace("host.example/app", ME)
    assert "secret" not in repr(keychain.access(parse_reference("docker://host.example/app"))) + repr(keychain._kept)


def test_they_are_used_for_the_registry() -> None:
    endpoint = Endpoint("host", "app", insecure=False)
    assert find_credentials(endpoint, Access(provided=IDENTITY)) == IDENTITY
    assert find_credentials(endpoint, Access(provided=IDENTITY, credentials="me:secret")) == ME


def test_a_failed_pull_leaves_what_another_one_has_kept_since() -> None:
    keychain, name, bad = Keychain(Access()), "host.example/app", Credentials("me", "wrong")
    before = keychain.replace(name, bad)
    keychain.replace(name, ME)
    keychain.restore(name, bad, before)
    assert keychain.access(parse_reference("docker://host.example/app")).provided == ME
    before = keychain.replace(name, bad)
    keychain.restore(name, bad, before)
    assert keychain.access(parse_reference("docker://host.example/app")).provided == ME
