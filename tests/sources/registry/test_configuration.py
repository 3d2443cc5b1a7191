import os
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, NotFoundError, OcifsError
from ocifs.sources.naming import reference_of
from ocifs.sources.registry import configuration
from ocifs.sources.registry.configuration import Endpoint, endpoints, is_loopback, read_configuration


def places(name: str, *, by_digest: bool = False, tls_verify: bool | None = None) -> list[str]:
    found = endpoints(name, read_configuration(), by_digest=by_digest, tls_verify=tls_verify)
    return [f"{place}{' insecure' if place.insecure else ''}" for place in found]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker.io/debian", "docker.io/library/debian"),
        ("docker.io/team/app", "docker.io/team/app"),
        ("index.docker.io/debian", "docker.io/library/debian"),
        ("registry-1.docker.io/library/debian", "docker.io/library/debian"),
        ("quay.io/debian", "quay.io/debian"),
        ("localhost/app", "localhost/app"),
        ("host:5000/app", "host:5000/app"),
        ("HOST/app", "HOST/app"),
        ("[::1]:5000/app", "[::1]:5000/app"),
    ],
)
def test_without_any_file(name: str, expected: str) -> None:
    assert places(name) == [expected]


def test_docker_io_is_connected_to_by_another_name() -> None:
    assert Endpoint("docker.io", "library/debian", insecure=False).address == "registry-1.docker.io"
    assert Endpoint("quay.io", "app", insecure=False).address == "quay.io"


CONF = """
unqualified-search-registries = ["only.example"]

[[registry]]
prefix = "docker.io"
location = "mirror.example/hub"
[[registry.mirror]]
location = "near.example:5000/hub"
insecure = true
[[registry.mirror]]
location = "digests.example/hub"
pull-from-mirror = "digest-only"

[[registry]]
prefix = "docker.io/library"
location = "docker.io/library"

[[registry]]
location = "plain.example"
insecure = true

[[registry]]
prefix = "*.wild.example"
blocked = true

[[registry]]
location = "old.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "new.example"

[aliases]
tool = "quay.io/team/tool"
"""


@pytest.fixture
def conf(alone: Path) -> Path:
    path = alone / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True)
    path.write_text(CONF)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tool:1", "docker://quay.io/team/tool:1"),
        ("app:1", "docker://only.example/app:1"),
        ("team/app", "docker://only.example/team/app"),
    ],
)
def test_a_short_name_is_a_reference(conf: Path, text: str, expected: str) -> None:
    assert reference_of(text) == reference_of(expected)


def test_a_path_wins_over_a_short_name(conf: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone / "tool").mkdir()
    monkeypatch.chdir(alone)
    assert reference_of("tool:1").path == "tool"
    assert reference_of("tool:1").transport is None


def test_a_full_name_needs_its_prefix(conf: Path) -> None:
    with pytest.raises(NotFoundError, match=r"write docker://quay\.io/team/tool:1$"):
        reference_of("quay.io/team/tool:1")


def test_an_ambiguous_short_name_lists_the_exact_references(conf: Path) -> None:
    conf.write_text('unqualified-search-registries = ["docker.io", "quay.io"]')
    expected = "choose from docker://docker.io/library/app:1, docker://quay.io/app:1$"
    with pytest.raises(NotFoundError, match=expected):
        reference_of("app:1")


@pytest.mark.parametrize(
    ("name", "by_digest", "expected"),
    [
        ("docker.io/team/app", False, ["near.example:5000/hub/team/app insecure", "mirror.example/hub/team/app"]),
        (
            "docker.io/team/app",
            True,
            [
                "near.example:5000/hub/team/app insecure",
                "digests.example/hub/team/app",
                "mirror.example/hub/team/app",
            ],
        ),
        ("docker.io/debian", False, ["docker.io/library/debian"]),
        ("plain.example/app", False, ["plain.example/app insecure"]),
        ("plain.example.org/app", False, ["plain.example.org/app"]),
        ("old.example/app", False, ["old.example/app"]),
        ("old.example/app", True, ["new.example/app", "old.example/app"]),
        ("tool", False, ["quay.io/team/tool"]),
        ("app", False, ["only.example/app"]),
    ],
)
def test_registries_conf(conf: Path, name: str, by_digest: bool, expected: list[str]) -> None:
    assert places(name, by_digest=by_digest) == expected


def test_tls_verify_is_the_last_word(conf: Path) -> None:
    assert places("plain.example/app", tls_verify=True) == ["plain.example/app"]
    assert places("old.example/app", tls_verify=False) == ["old.example/app insecure"]


def test_blocked(conf: Path) -> None:
    with pytest.raises(OcifsError, match=r"a.wild.example/app is blocked by registries.conf"):
        places("a.wild.example/app")


def test_drop_in_files_replace_what_they_name(conf: Path, alone: Path) -> None:
    directory = conf.parent / "registries.conf.d"
    directory.mkdir()
    (directory / "20.conf").write_text('unqualified-search-registries = ["a.example", "b.example"]\n')
    (directory / "10.conf").write_text('[[registry]]\nlocation = "plain.example"\n[aliases]\ntool = "x.example/t"\n')
    assert places("plain.example/app") == ["plain.example/app"]
    assert places("tool") == ["x.example/t"]
    with pytest.raises(NotFoundError, match=r"choose from docker://a.example/app, docker://b.example/app"):
        places("app")


def test_a_short_name_that_nothing_explains() -> None:
    with pytest.raises(NotFoundError, match=r"write docker://docker.io/library/app, or another registry"):
        places("app")


@pytest.mark.parametrize("text", ["[[registry]\n", "[[registry]]\nblocked = 1\n", "\xff"])
def test_malformed(alone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.conf"
    path.write_bytes(text.encode("latin-1"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(path))
    with pytest.raises(OcifsError, match=r"cannot use .*own.conf: "):
        places("app")


@pytest.mark.parametrize("name", ["registries.conf", "registries.conf.d/a.conf"])
def test_a_fifo_blocks_nobody(alone: Path, name: str) -> None:
    path = alone / ".config/containers" / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(OcifsError, match=rf"cannot use {path}: not a regular file"):
        places("app")


def test_a_file_that_is_named_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", "/missing.conf")
    with pytest.raises(OcifsError, match=r"cannot use /missing.conf: No such file"):
        places("app")


def test_a_registry_is_no_image(conf: Path) -> None:
    conf.write_text('[aliases]\napp = "quay.io"\n')
    with pytest.raises(InvalidImageError, match=r"quay.io names a registry without a repository"):
        places("app")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8:5000", True),
        ("localhost:5000", True),
        ("[::1]:5000", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example:5000", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


def test_the_configuration_of_all_users(request: pytest.FixtureRequest) -> None:
    conf = configuration.SYSTEM / "registries.conf"
    request.addfinalizer(conf.unlink)
    conf.write_text('unqualified-search-registries = ["system.example"]\n')
    assert places("app") == ["system.example/app"]
