"""What workers are told about credentials, at the socket of the keychain."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ocifs.snapshotter.keychain import Keychain
from ocifs.snapshotter.keychain_socket import SOCKET, answering
from ocifs.sources.reference import parse_reference
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.keychain import ask
from ocifs.sources.registry.peer import Credentials, KeychainEntry

ME, IDENTITY = Credentials("me", "s3cr3t"), Credentials(identity_token="tok")
NAME = "host.example/team/app"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / SOCKET


@pytest.fixture
def keychain(path: Path) -> Iterator[Keychain]:
    keychain = Keychain(Access(), str(path))
    with answering(path, keychain):
        yield keychain


def test_the_last_credentials_of_a_repository(keychain: Keychain, path: Path) -> None:
    entry = keychain.access(parse_reference(f"docker://{NAME}:1")).keychain
    assert entry == KeychainEntry(str(path), NAME)
    assert ask(entry) is None
    for credentials in (ME, IDENTITY):
        keychain.replace(NAME, credentials)
        assert ask(entry) == credentials
    assert ask(KeychainEntry(str(path), "host.example/other")) is None
    assert "s3cr3t" not in repr(entry)


def test_nobody_is_asked_any_more_once_it_ends(keychain: Keychain, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sock"
    entry = KeychainEntry(str(other), NAME)
    keychain.replace(NAME, ME)
    with answering(other, keychain):
        assert other.stat().st_mode & 0o777 == 0o600
        assert ask(entry) == ME
    assert not other.exists()
    assert ask(entry) is None
    other.touch()  # what a killed process leaves
    with answering(other, keychain):
        assert ask(entry) == ME


def test_it_is_served_without_a_socket(keychain: Keychain, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with answering(tmp_path / "missing/s", keychain):
        pass
    assert f"mounts cannot renew their credentials: cannot listen on {tmp_path}/missing/s" in caplog.text


@pytest.mark.parametrize("request_of", [b"", b"host", b"x" * (70 << 10), b"\xff\n", b"\n", b"a\nb\n"])
def test_other_requests_get_nothing(keychain: Keychain, path: Path, request_of: bytes) -> None:
    keychain.replace(NAME, ME)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(request_of)
        connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            assert connection.recv(1 << 16) in {b"", b"null"}
    assert ask(KeychainEntry(str(path), NAME)) == ME


@pytest.mark.parametrize("answer", [b"", b"{", b"[1]", b'{"username": 1}', b"x" * (2 << 20)])
def test_a_strange_answer_is_none(tmp_path: Path, answer: bytes) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                with suppress(OSError):
                    connection.sendall(answer)

        thread = threading.Thread(target=answer_once)
        thread.start()
        assert ask(KeychainEntry(path, NAME)) is None
        thread.join()
