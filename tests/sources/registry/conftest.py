"""No configuration of this machine reaches these tests, and what is tried again is so at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.sources.registry import configuration, session, tls
from tests.registry import Registry, running


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home directory, in which there is nothing."""
    home = tmp_path / "home"
    home.mkdir()
    for name in (
        "XDG_CONFIG_HOME",
        "DOCKER_CONFIG",
        "CONTAINERS_REGISTRIES_CONF",
        "REGISTRY_AUTH_FILE",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "no_proxy",
        "NO_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "runtime"))
    monkeypatch.setattr(configuration, "_SYSTEM", tmp_path / "etc")
    monkeypatch.setattr(tls, "_SYSTEM", (tmp_path / "certs.d",))
    monkeypatch.setattr(session, "FIRST_PAUSE", 0.01)
    return home


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as registry:
        yield registry
