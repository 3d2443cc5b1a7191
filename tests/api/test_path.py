"""A path in an image does what `pathlib.Path` does with the same files in a directory."""

import builtins
import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

import ocifs

Either = Path | ocifs.ImagePath

_PATHS = [
    *(".", "etc", "etc/motd", "etc/hard", "etc/link", "etc/dangling", "etc/loop", "etc/round", "etc/conf.d", "lib"),
    *("lib/x.tar.gz", "usr/up", "usr/up/etc/conf.d/../motd", "pipe", "nowhere", "nowhere/below", "etc/motd/below"),
    *("etc/link/below", "usr/lib/caf\udce9", "usr/lib/two\nlines", "etc/conf.d/b.conf", "empty", "etc/"),
]


def _names(found: object, root: Either) -> object:
    """Return paths as what they are below `root`, whatever holds them."""
    if isinstance(found, Path | ocifs.ImagePath):
        return str(found.relative_to(root))  # type: ignore[arg-type]
    return tuple(_names(each, root) for each in found) if isinstance(found, list | tuple) else found


def _stat(path: Either, *, follow: bool = True) -> list[object]:
    found = path.stat(follow_symlinks=follow)
    fields = ["st_mode", "st_uid", "st_gid"]
    if not stat.S_ISDIR(found.st_mode):
        fields += ["st_size", "st_nlink"]
    if stat.S_ISREG(found.st_mode):
        fields += ["st_mtime", "st_mtime_ns"]
    return [getattr(found, name) for name in fields]


_METHODS: dict[str, Callable[[Either], object]] = {
    "exists": lambda path: path.exists(),
    "is_file": lambda path: path.is_file(),
    "is_dir": lambda path: path.is_dir(),
    "is_symlink": lambda path: path.is_symlink(),
    "is_fifo": lambda path: path.is_fifo(),
    "is_socket": lambda path: path.is_socket(),
    "is_block_device": lambda path: path.is_block_device(),
    "is_char_device": lambda path: path.is_char_device(),
    "stat": _stat,
    "lstat": lambda path: _stat(path, follow=False),
    "iterdir": lambda path: sorted(path.iterdir()),
    "readlink": lambda path: str(path.readlink()),
    "read_bytes": lambda path: None if path.is_fifo() else path.read_bytes(),
    "read_text": lambda path: None if path.is_fifo() else path.read_text("latin-1"),
    "open": lambda path: None if path.is_fifo() else path.open("rb").read(3),
    "lines": lambda path: None if path.is_fifo() else [*path.open(encoding="latin-1")],
    "samefile": lambda path: path.samefile(path.parent / "hard"),  # type: ignore[arg-type]
    "resolve": lambda path: None if "loop" in str(path) or "round" in str(path) else path.resolve(),
    "strict": lambda path: None if "loop" in str(path) or "round" in str(path) else path.resolve(strict=True),
}


@pytest.mark.parametrize("name", _PATHS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_path_does_what_pathlib_does(image: ocifs.Image, host: Path, name: str) -> None:
    def outcome(root: Either, method: Callable[[Either], object]) -> object:
        try:
            return _names(method(root / name), root)
        except OSError as error:
            return type(error), error.errno, error.strerror

    for method, call in _METHODS.items():
        assert outcome(image.root, call) == outcome(host, call), method


@pytest.mark.parametrize(
    "name", ["etc/motd", "usr/lib/x.tar.gz", ".hidden", "a.b/c.", "", "x/../y", "etc//conf.d/./more"]
)
@pytest.mark.parametrize("attribute", ["name", "stem", "suffix", "suffixes", "parts"])
def test_names_are_those_of_pathlib(image: ocifs.Image, name: str, attribute: str) -> None:
    assert getattr(image / name, attribute) == getattr(PurePosixPath("/", name), attribute)


def test_paths_are_derived_from_paths(image: ocifs.Image) -> None:
    path = image / "usr/lib/x.tar.gz"
    assert str(path) == path.as_posix() == "/usr/lib/x.tar.gz"
    assert repr(path) == "ImagePath('/usr/lib/x.tar.gz')"
    assert path.parent == image / "usr" / "lib"
    assert [str(each) for each in path.parents] == ["/usr/lib", "/usr", "/"]
    assert image.root.parent == image.root
    assert str(path.with_name("y")) == "/usr/lib/y"
    assert str(path.with_suffix(".xz")) == "/usr/lib/x.tar.xz"
    assert str(path.with_stem("z")) == "/usr/lib/z.gz"
    assert path.relative_to("/usr") == PurePosixPath("lib/x.tar.gz")
    assert path.is_relative_to(image / "usr")
    assert path.match("*.gz")
    assert path.joinpath("a", "b") == path / "a" / PurePosixPath("b")
    assert str(path / "/etc") == str(image / "//etc") == "/etc"
    assert {image / "etc", image / "etc/", image / "./etc"} == {image / "etc"}
    assert sorted([image / "b", image / "a"]) == [image / "a", image / "b"]


def test_names_may_be_any_bytes(image: ocifs.Image) -> None:
    path = image / b"usr/lib/caf\xe9"
    assert path.name == "caf\udce9"
    assert bytes(path) == b"/usr/lib/caf\xe9"
    assert path.read_bytes() == b"latin"
    assert path in (image / "usr/lib").iterdir()


def test_a_path_names_no_file_of_the_host(image: ocifs.Image) -> None:
    with pytest.raises(TypeError):
        os.fspath(image / "etc/passwd")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        builtins.open(image / "etc/passwd")  # type: ignore[call-overload] # noqa: SIM115


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "etc/*", "etc/conf.d/*.conf", "etc/conf.d/[ab].conf", "etc/conf.d/?.conf", "*/motd", "*/*/more/c.conf"),
        *("etc/motd", "nowhere", "nowhere/*", "etc/motd/*", "**/*.conf", "**/conf.d", "**/more/*", "etc/**/c.conf"),
        *("usr/**/*", "lib/*", "*/lib/x*", "usr/up/etc/m*", "[!e]*", "etc/dang*", "**/*/", "etc/*/"),
        *("etc/../etc/m*", "**/*/../*/c.conf"),
    ],
)
def test_glob_finds_what_pathlib_finds(image: ocifs.Image, host: Path, pattern: str) -> None:
    found = [str(path) for path in image.root.glob(pattern)]
    assert len(found) == len(set(found))
    assert set(found) == {f"/{path.relative_to(host)}" for path in host.glob(pattern)}


def test_glob_from_a_directory_and_below(image: ocifs.Image) -> None:
    etc = image / "etc"
    assert [path.name for path in etc.rglob("*.conf")] == [".hidden.conf", "a.conf", "b.conf", "c.conf"]
    assert [*etc.rglob("*.conf")] == [*etc.glob("**/*.conf")]
    assert [str(path) for path in (image / "etc/conf.d").glob("**")] == [
        "/etc/conf.d",
        *("/etc/conf.d/" + name for name in (".hidden.conf", "a.conf", "b.conf", "back", "more", "more/c.conf")),
    ]


@pytest.mark.parametrize(("pattern", "error"), [("", ValueError), (".", ValueError), ("/etc/*", NotImplementedError)])
def test_glob_refuses_what_pathlib_refuses(image: ocifs.Image, pattern: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        image.root.glob(pattern)


@pytest.mark.parametrize("top_down", [True, False])
def test_walk_visits_what_os_walk_visits(image: ocifs.Image, host: Path, top_down: bool) -> None:
    walked = [(str(path), sorted(dirs), sorted(files)) for path, dirs, files in image.root.walk(top_down)]
    of_os = []
    for path, directories, files in os.walk(host, topdown=top_down):
        links = [name for name in directories if os.path.islink(os.path.join(path, name))]
        directories[:] = sorted(set(directories) - set(links))
        of_os.append(("/" + os.path.relpath(path, host).lstrip("."), directories, sorted([*files, *links])))
    assert sorted(walked) == sorted(of_os)
    parents = [path for path, _, _ in walked]
    order = parents if top_down else parents[::-1]
    assert all(order.index(str((image / path).parent)) <= order.index(path) for path in order)


def test_walk_skips_directories_and_reports_errors(image: ocifs.Image) -> None:
    visited = []
    for path, directories, _ in image.root.walk():
        visited.append(str(path))
        directories[:] = [name for name in directories if name != "conf.d" and name != "usr"]
    assert visited == ["/", "/empty", "/etc"]
    errors: list[OSError] = []
    assert [*(image / "etc/motd").walk(on_error=errors.append)] == []
    assert [error.errno for error in errors] == [errno.ENOTDIR]
    assert {str(path) for path, _, _ in (image / "usr").walk(follow_symlinks=True)} >= {"/usr/lib", "/usr/up/etc"}


def test_open_files_are_those_of_python(image: ocifs.Image) -> None:
    path = image / "usr/lib/x.tar.gz"
    with path.open("rb") as file:
        assert file.seek(-3, io.SEEK_END) == len(path.read_bytes()) - 3
        assert file.read() == b"\xfd\xfe\xff"
    with path.open("rb", 0) as raw:
        assert raw.read(2) == b"\0\1"
    with (image / "etc/conf.d/a.conf").open(newline="") as text:
        assert text.read() == "a = 1\r\n"
    assert (image / "etc/conf.d/a.conf").read_text() == "a = 1\n"
    assert (image / "usr/lib/caf\udce9").open("rt", encoding="ascii", errors="strict").read() == "latin"


@pytest.mark.parametrize(
    ("mode", "error"), [("w", OSError), ("ab", OSError), ("r+", OSError), ("x", OSError), ("q", ValueError)]
)
def test_files_are_only_read(image: ocifs.Image, mode: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        (image / "etc/motd").open(mode)
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.EROFS


def test_a_loop_does_not_resolve(image: ocifs.Image) -> None:
    for name in ("etc/loop", "etc/round"):
        for strict in (False, True):
            with pytest.raises(OSError, match="etc/") as caught:
                (image / name).resolve(strict=strict)
            assert caught.value.errno == errno.ELOOP


def test_no_symlink_leads_out_of_the_image(image: ocifs.Image) -> None:
    assert (image / "etc/absolute").read_text() == "welcome\n"
    assert (image / "usr/up/../../../etc/motd").read_text() == "welcome\n"
    assert str((image / "usr/up/../../..").resolve()) == "/"
