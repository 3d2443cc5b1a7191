"""The files of an image through fsspec: its own abstract tests, as far as they only read, and what is ours."""

import errno
import io
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests import abstract

from ocifs.api.filesystem import OcifsFileSystem
from ocifs.errors import NotFoundError, UnsupportedError
from tests.images import Image, Layer, layout_files, tar, write_layout, write_oci_archive
from tests.registry import Registry
from tests.tars import directory, file, header, symlink
from tests.tars import tar as pack

Files = dict[str, bytes | None]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for filesystem in list(OcifsFileSystem._cache.values()):
        filesystem.close()


class _ReadOnlyFixtures(abstract.AbstractFixtures):  # type: ignore[misc] # fsspec has no types
    """Each scenario is made in a directory of the host, and packed into the image `data`."""

    @pytest.fixture
    def fs(self, request: pytest.FixtureRequest, tmp_path: Path) -> OcifsFileSystem:
        root = tmp_path / "root"
        for name in self._SCENARIOS:
            if f"fs{name}" in request.fixturenames:
                getattr(self, name)(LocalFileSystem(auto_mkdir=True), self._join, str(root / "data"))
        files: Files = {"data": None}
        for path in sorted(root.rglob("*")):
            files[str(path.relative_to(root))] = path.read_bytes() if path.is_file() else None
        return OcifsFileSystem(str(write_layout(tmp_path / "image", Image(layers=(Layer(tar(files)),)))))

    _SCENARIOS = (
        "_glob_edge_cases_files",
        "_bulk_operations_scenario_0",
        "_dir_and_file_with_same_name_prefix",
        "_10_files_with_hashed_names",
    )

    @staticmethod
    def _join(*parts: str) -> str:
        return "/".join(parts)

    @pytest.fixture
    def fs_path(self) -> str:
        return "/data"

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self) -> str:
        return "/data/source"

    fs_glob_edge_cases_files = fs_bulk_operations_scenario_0
    fs_dir_and_file_with_same_name_prefix = fs_bulk_operations_scenario_0
    fs_10_files_with_hashed_names = fs_bulk_operations_scenario_0


class TestGet(abstract.AbstractGetTests, _ReadOnlyFixtures):  # type: ignore[misc]
    """`get` of files, lists, directories and patterns."""

    def test_get_directory_recursive(self) -> None:
        pytest.skip("it writes the files that it gets; test_a_directory_is_copied_out does the same")


_MEMBERS = [
    directory(b"etc/"),
    file(b"etc/motd", b"welcome\n", mtime=1_500_000_000),
    symlink(b"etc/link", b"motd"),
    symlink(b"etc/up", b".."),
    symlink(b"etc/dangling", b"nowhere"),
    file(b"etc/a:/b", b"colons"),
    file(b"caf\xe9", b"latin"),
    file(b"data.csv", b"a,b\n1,2\n"),
    directory(b"empty/"),
    header(b"pipe", flag=b"6"),
]
_IMAGE = Image(layers=(Layer(pack(_MEMBERS)), Layer(tar({"data.csv": b"a,b\n3,4\n"}))))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "debian", _IMAGE)


@pytest.fixture
def fs(layout: Path) -> OcifsFileSystem:
    return OcifsFileSystem(str(layout))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("ocifs://{}:/etc/motd", "/etc/motd"),
        ("ocifs://{}:latest:/etc/motd", "/etc/motd"),
        ("ocifs://oci:{}:latest:/etc/motd", "/etc/motd"),
        ("ocifs://oci:{}:/etc/motd", "/etc/motd"),
        ("ocifs://{}:/etc/a:/b", "/etc/a:/b"),
        ("ocifs://{}:/", "/"),
        ("ocifs://etc/motd::{}", "/etc/motd"),
        ("ocifs:///etc/motd::{}:latest", "/etc/motd"),
        ("ocifs://etc/motd::file://{}:latest", "/etc/motd"),
    ],
)
def test_urls_name_an_image_and_a_path(layout: Path, url: str, path: str) -> None:
    fs, found = fsspec.core.url_to_fs(url.format(layout))
    assert isinstance(fs, OcifsFileSystem)
    assert found == path
    assert fs.exists(found)
    again, same = fsspec.core.url_to_fs(fs.unstrip_protocol(found))
    assert (again.image.digest, same) == (fs.image.digest, found)


def test_urls_of_registries_are_not_split_at_their_scheme_or_port() -> None:
    strip, image = OcifsFileSystem._strip_protocol, OcifsFileSystem._get_kwargs_from_urls
    url = "ocifs://docker://localhost:5000/team/app:1.2:/etc/passwd"
    assert (image(url), strip(url)) == ({"image": "docker://localhost:5000/team/app:1.2"}, "/etc/passwd")
    assert (image("ocifs://oci:/abs"), strip("ocifs://oci:/abs")) == ({}, "/oci:/abs")
    assert strip(["ocifs://x:/a/", "b"]) == ["/a", "/b"]


def test_files_open_by_url(layout: Path, tmp_path: Path) -> None:
    with fsspec.open(f"ocifs://{layout}:latest:/etc/motd", "rt") as file:
        assert file.read() == "welcome\n"
    with fsspec.open("ocifs:///data.csv", image=str(layout), layer=0, platform="linux/amd64") as file:
        assert file.read() == b"a,b\n1,2\n"
    archive = write_oci_archive(tmp_path / "archive.tar", _IMAGE)
    with fsspec.open(f"ocifs://data.csv::{archive}") as file:
        assert file.read() == b"a,b\n3,4\n"


def test_an_image_is_indexed_once(layout: Path, tmp_path: Path) -> None:
    OcifsFileSystem(str(layout), cache_dir=str(tmp_path / "own"))
    assert len([*(tmp_path / "own/entries").iterdir()]) == 3
    OcifsFileSystem(str(layout))
    assert len([*(tmp_path / "cache/ocifs/entries").iterdir()]) == 3


def test_open_files_seek(fs: OcifsFileSystem) -> None:
    with fs.open("/etc/motd") as file:
        assert file.seek(-3, io.SEEK_END) == 5
        assert file.read() == b"me\n"
        assert file.size == 8
    assert fs.cat_file("etc/motd", -3) == b"me\n"
    assert fs.cat_file("etc/motd", 3, -1) == b"come"
    assert fs.cat_file("etc/motd", 6, 2) == b""
    assert fs.cat_ranges(["/etc/motd", "/data.csv"], [0, 2], [3, 3]) == [b"wel", b"b"]
    assert fs.cat(["/etc/motd", "/etc/link"]) == {"/etc/motd": b"welcome\n", "/etc/link": b"welcome\n"}
    assert (fs.head("/etc/motd", 3), fs.tail("/etc/motd", 3)) == (b"wel", b"me\n")
    assert fs.read_block("/data.csv", 1, 3, delimiter=b"\n") == b"3,4\n"
    assert fs.read_text("/etc/link") == "welcome\n"


def test_attributes_are_those_of_the_image(fs: OcifsFileSystem) -> None:
    info = fs.info("/etc/motd")
    assert (info["name"], info["size"], info["type"], info["mode"]) == ("/etc/motd", 8, "file", 0o100644)
    assert fs.modified("/etc/motd") == datetime.fromtimestamp(1_500_000_000, UTC)
    link = fs.info("/etc/link")
    assert (link["type"], link["size"], link["islink"], link["destination"]) == ("file", 8, True, "motd")
    assert fs.isdir("/etc/up")
    assert fs.isfile("/etc/link")
    assert fs.info("/etc/dangling")["type"] == "link"
    assert fs.info("/pipe")["type"] == "other"
    assert fs.size("/data.csv") == 8
    assert fs.exists("/caf\udce9")


def test_directories_are_listed(fs: OcifsFileSystem) -> None:
    assert fs.ls("/", detail=False) == ["/caf\udce9", "/data.csv", "/empty", "/etc", "/pipe"]
    assert {info["name"]: info["type"] for info in fs.ls("/etc")} == {
        "/etc/a:": "directory",
        "/etc/dangling": "link",
        "/etc/link": "file",
        "/etc/motd": "file",
        "/etc/up": "link",
    }
    assert fs.ls("/etc/motd", detail=False) == ["/etc/motd"]
    assert [info["size"] for info in fs.ls("/etc/link")] == [8]
    assert fs.ls("/empty") == []
    assert fs.find("/etc") == ["/etc/a:/b", "/etc/dangling", "/etc/link", "/etc/motd", "/etc/up"]
    assert fs.glob("/*.csv") == ["/data.csv"]
    assert fs.glob("/**/m*d") == ["/etc/motd"]
    assert fs.du("/etc/motd") == 8


def test_a_directory_is_copied_out(fs: OcifsFileSystem, tmp_path: Path) -> None:
    fs.get("/etc/a:", str(tmp_path / "out"), recursive=True)
    assert (tmp_path / "out/b").read_bytes() == b"colons"


_WRITES: list[Callable[[OcifsFileSystem], object]] = [
    lambda fs: fs.open("/etc/motd", "wb"),
    lambda fs: fs.open("/etc/motd", "a"),
    lambda fs: fs.mkdir("/x"),
    lambda fs: fs.makedirs("/x"),
    lambda fs: fs.touch("/x"),
    lambda fs: fs.pipe("/x", b""),
    lambda fs: fs.put(__file__, "/x"),
    lambda fs: fs.cp("/etc/motd", "/x"),
    lambda fs: fs.mv("/etc/motd", "/x"),
    lambda fs: fs.rm("/etc/motd"),
    lambda fs: fs.rm("/etc", recursive=True),
    lambda fs: fs.rmdir("/empty"),
]


@pytest.mark.parametrize("write", _WRITES)
def test_nothing_is_written(fs: OcifsFileSystem, write: Callable[[OcifsFileSystem], object]) -> None:
    with pytest.raises(OSError, match="Read-only") as caught:
        write(fs)
    assert caught.value.errno == errno.EROFS


@pytest.mark.parametrize("path", ["/nowhere", "/etc/motd/below"])
def test_missing_files_are_not_found(fs: OcifsFileSystem, path: str) -> None:
    for use in (fs.info, fs.ls, fs.open, fs.cat_file, fs.modified):
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            use(path)
    assert not fs.exists(path)
    with pytest.raises(IsADirectoryError):
        fs.open("/etc")


def test_a_filesystem_needs_an_image(layout: Path) -> None:
    with pytest.raises(ValueError, match=r"no image: write ocifs://IMAGE:/PATH"):
        fsspec.open("ocifs://etc/motd").open()
    with pytest.raises(NotFoundError, match="no image 'none'"):
        fsspec.open(f"ocifs://{layout}:none:/etc/motd").open()
    with pytest.raises(UnsupportedError, match="through the protocol 'memory'"):
        fsspec.open("ocifs://etc/motd::memory://image.tar").open()


def test_filesystems_are_shared_pickled_and_closed(fs: OcifsFileSystem, layout: Path) -> None:
    assert OcifsFileSystem(str(layout)) is fs
    assert pickle.loads(pickle.dumps(fs)) is fs
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(fs.cat_file, ["/etc/motd"] * 40)) == {b"welcome\n"}
    fs.close()
    with pytest.raises(ValueError, match="closed"):
        fs.cat_file("/etc/motd")
    again = OcifsFileSystem(str(layout))
    assert again is not fs
    assert again.cat_file("/etc/motd") == b"welcome\n"


def test_an_image_in_a_registry_is_fetched_once(registry: Registry, alone: Path) -> None:
    registry.add("team/app", layout_files(_IMAGE))
    url = f"ocifs://docker://{registry.host}/team/app:latest:/etc/motd"
    with fsspec.open(url, "rt") as file:
        assert file.read() == "welcome\n"
    asked = len(registry.sent)
    with fsspec.open(url) as file:
        assert file.read() == b"welcome\n"
    assert len(registry.sent) == asked
