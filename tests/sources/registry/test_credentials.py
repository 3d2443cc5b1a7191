import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocifs.errors import OcifsError, RegistryError
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.configuration import Endpoint
from ocifs.sources.registry.credentials import find_credentials
from ocifs.sources.registry.peer import Credentials


def find(
    host: str = "host.example", repository: str = "team/app", access: Access | None = None
) -> tuple[str, str, str] | None:
    found = find_credentials(Endpoint(host, repository, insecure=False), access or Access())
    return None if found is None else (found.username, found.password, found.identity_token)


def entry(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_an_unreadable_file_is_skipped_with_a_warning(alone: Path) -> None:
    """A directory in its place cannot be read by root either."""
    (alone / "runtime/containers/auth.json").mkdir(parents=True)
    write(alone / ".docker/config.json", {"auths": {"host.example": entry("me:1")}})
    told: list[str] = []
    assert find(access=Access(warn=told.append)) == ("me", "1", "")
    path = alone / "runtime/containers/auth.json"
    assert told == [f"cannot read {path}: Is a directory: continuing without its credentials"]
    with pytest.raises(OcifsError, match=r"auth\.json: Is a directory"):
        find(access=Access(authfile=path))


def test_a_fifo_is_skipped_unless_the_user_names_it(alone: Path) -> None:
    """Under `sudo -E`, another user may have put it there."""
    path = alone / "runtime/containers/auth.json"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    write(alone / ".docker/config.json", {"auths": {"host.example": entry("me:1")}})
    told: list[str] = []
    assert find(access=Access(warn=told.append)) == ("me", "1", "")
    assert told == [f"cannot read {path}: not a regular file: continuing without its credentials"]
    with ThreadPoolExecutor(1) as writing:
        writing.submit(write, path, {"auths": {"host.example": entry("named:2")}})
        assert find(access=Access(authfile=path)) == ("named", "2", "")


def test_none() -> None:
    assert find() is None


def test_those_that_are_given_win(alone: Path) -> None:
    write(alone / ".docker/config.json", {"auths": {"host.example": entry("other:pw")}})
    assert find(access=Access(credentials="me:pass:word")) == ("me", "pass:word", "")


def test_the_most_specific_entry_wins(alone: Path) -> None:
    write(
        alone / "runtime/containers/auth.json",
        {
            "auths": {
                "host.example": entry("host:1"),
                "host.example/team": entry("team:2"),
                "host.example/team/app": entry("app:3"),
                "host.example/te": entry("te:4"),
            }
        },
    )
    assert find() == ("app", "3", "")
    assert find(repository="team/other") == ("team", "2", "")
    assert find(repository="other") == ("host", "1", "")
    assert find("host.example:5000") is None


@pytest.mark.parametrize(
    "place", ["runtime/containers/auth.json", ".config/containers/auth.json", ".docker/config.json"]
)
def test_places(alone: Path, place: str) -> None:
    write(alone / place, {"auths": {"host.example": entry("me:pw")}})
    assert find() == ("me", "pw", "")


def test_podmans_file_comes_before_dockers(alone: Path) -> None:
    write(alone / "runtime/containers/auth.json", {"auths": {"host.example": entry("podman:1")}})
    write(alone / ".docker/config.json", {"auths": {"host.example": entry("docker:2"), "b.example": entry("b:3")}})
    assert find() == ("podman", "1", "")
    assert find("b.example") == ("b", "3", "")


def test_authfile_is_the_only_one(alone: Path, tmp_path: Path) -> None:
    write(alone / ".docker/config.json", {"auths": {"host.example": entry("docker:2")}})
    assert find(access=Access(authfile=write(tmp_path / "a.json", {}))) is None
    with pytest.raises(OcifsError, match=r"no such file of credentials: /missing"):
        find(access=Access(authfile=Path("/missing")))


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_many_names(alone: Path, key: str) -> None:
    write(alone / ".docker/config.json", {"auths": {key: entry("me:pw")}})
    assert find("docker.io", "library/debian") == ("me", "pw", "")


def test_tokens_and_plain_fields(alone: Path) -> None:
    auths = {"a.example": {"identitytoken": "tok"}, "b.example": {"username": "me", "password": "pw"}, "c.example": {}}
    write(alone / ".docker/config.json", {"auths": auths})
    assert find("a.example") == ("", "", "tok")
    assert find("b.example") == ("me", "pw", "")
    assert find("c.example") is None


@pytest.mark.parametrize("text", ['{"auths": {"host.example": {"auth": "s3cr3t!"}}}', '{"auths": s3cr3t', '["s3cr3t"]'])
def test_malformed_files_are_not_quoted(alone: Path, text: str) -> None:
    write(alone / ".docker/config.json", None).write_text(text)
    with pytest.raises(OcifsError, match=r"config\.json .*log in again") as caught:
        find()
    assert "s3cr3t" not in str(caught.value)


def helper(directory: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir(exist_ok=True)
    program = directory / f"docker-credential-{name}"
    program.write_text(f'#!/bin/sh\n[ "$1" = get ] || exit 9\nread server\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_helpers(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path / "bin", "x", 'echo "{\\"Username\\":\\"me\\",\\"Secret\\":\\"for $server\\"}"', monkeypatch)
    helper(tmp_path / "bin", "y", 'echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"tok\\"}"', monkeypatch)
    write(
        alone / ".docker/config.json",
        {"credHelpers": {"host.example": "y"}, "credsStore": "x", "auths": {"a.example": entry("a:1")}},
    )
    assert find() == ("", "", "tok")
    assert find("a.example") == ("a", "1", "")
    assert find("b.example") == ("me", "for b.example", "")
    assert find("docker.io", "library/debian") == ("me", "for https://index.docker.io/v1/", "")


@pytest.mark.parametrize(
    ("name", "script", "message"),
    [
        (
            "x",
            "echo s3cr3t; exit 1",
            "docker-credential-x failed for host.example: exit status 1",
        ),
        ("x", "echo s3cr3t", "docker-credential-x returned unusable credentials"),
        ("missing", "", "cannot run docker-credential-missing for credentials: No such file"),
        ("../x", "", "invalid name of a credential helper"),
    ],
)
def test_helpers_that_fail(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str, message: str
) -> None:
    helper(tmp_path / "bin", "x", script, monkeypatch)
    write(alone / ".docker/config.json", {"credHelpers": {"host.example": name}})
    with pytest.raises(OcifsError, match=message) as caught:
        find()
    assert "s3cr3t" not in str(caught.value)
    assert isinstance(caught.value, RegistryError) == (name != "../x")


def test_a_helper_that_knows_nothing(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path / "bin", "x", "echo credentials not found in native keychain; exit 1", monkeypatch)
    write(alone / ".docker/config.json", {"credsStore": "x"})
    assert find() is None


def test_no_secret_is_shown() -> None:
    assert "s3cr3t" not in repr(Credentials("me", "s3cr3t", "s3cr3t"))
    assert "s3cr3t" not in repr(Access(credentials="me:s3cr3t"))
