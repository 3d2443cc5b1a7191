"""Where the stores of containers/storage are."""

import os
from pathlib import Path

import pytest

from ocifs.errors import NotFoundError, OcifsError, UnsupportedError
from ocifs.sources.containers_storage import Places, configured, open_stores, split_places

CONF = """
[storage]
driver = "overlay"
graphroot = "/srv/graph"
runroot = "/run/x"
[storage.options]
additionalimagestores = ["/srv/one", "/srv/two"]
[storage.options.overlay]
mountopt = "nodev"
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "storage.conf"
    path.write_text(CONF)
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(path))
    return path


@pytest.mark.parametrize(
    ("name", "places", "rest"),
    [
        ("app:1", Places(("/srv/graph", "/srv/one", "/srv/two"), "overlay"), "app:1"),
        ("[/g]app:1", Places(("/g",), ""), "app:1"),
        ("[vfs@/g]app", Places(("/g",), "vfs"), "app"),
        ("[overlay@/g+/run/y]host:5000/app@sha256:x", Places(("/g",), "overlay"), "host:5000/app@sha256:x"),
        ("[overlay@/g+/r:overlay.mount_program=/usr/bin/fuse-overlayfs,x=y]app", Places(("/g",), "overlay"), "app"),
        ("[vfs@]app", Places(("/srv/graph", "/srv/one", "/srv/two"), "vfs"), "app"),
    ],
)
def test_places(conf: Path, name: str, places: Places, rest: str) -> None:
    assert split_places(name) == (places, rest)


@pytest.mark.parametrize("name", ["[", "[overlay@g]app", "[/g", "[a b]app"])
def test_malformed_places(conf: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match=r"malformed store in .*: write containers-storage:\[DRIVER@/GRAPHROOT"):
        split_places(name)


def test_the_environment_chooses_the_driver(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_DRIVER", "vfs")
    assert configured().driver == "vfs"


def test_defaults(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(alone / "storage.conf"))
    (alone / "storage.conf").touch()
    root = "/var/lib/containers/storage" if os.geteuid() == 0 else f"{alone}/.local/share/containers/storage"
    assert configured() == Places((root,), "")


@pytest.mark.parametrize("text", ["[storage", "[storage]\ndriver = 1\n", "\udcff"])
def test_malformed_configuration(conf: Path, text: str) -> None:
    conf.write_bytes(os.fsencode(text))
    with pytest.raises(OcifsError, match=r"cannot use .*storage.conf: "):
        configured()


def test_a_configuration_that_is_missing(conf: Path) -> None:
    conf.unlink()
    with pytest.raises(OcifsError, match=r"cannot use .*storage.conf: No such file"):
        configured()


def store(path: Path, driver: str) -> str:
    (path / f"{driver}-images").mkdir(parents=True)
    (path / f"{driver}-images/images.json").write_text("[]")
    return str(path)


def test_the_driver_of_a_store(tmp_path: Path) -> None:
    one = store(tmp_path / "a", "overlay")
    store(tmp_path / "a", "vfs")
    two = store(tmp_path / "b", "vfs")
    found = [*open_stores(Places((one, two), "vfs")), *open_stores(Places((one, two), ""))]
    assert [each.driver for each in found] == ["vfs", "vfs", "overlay", "vfs"]
    for each in found:
        each.folder.close()
    with pytest.raises(UnsupportedError, match="has the driver btrfs: ocifs reads overlay and vfs"):
        next(open_stores(Places((store(tmp_path / "c", "btrfs"),), "")))


def test_stores_that_are_missing(tmp_path: Path) -> None:
    assert [*open_stores(Places((str(tmp_path / "none"),), ""))] == []
    assert [*open_stores(Places((str(tmp_path),), ""))] == []
    with pytest.raises(NotFoundError, match="none"):
        [*open_stores(Places((str(tmp_path), str(tmp_path / "none")), ""))]
