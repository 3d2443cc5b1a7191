import bz2
import io
import lzma
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, LimitError, NotFoundError, OcifsError, UnsupportedError
from ocifs.sources.archive import Archive
from tests.images import tar, write_archive

Member = tuple[str, bytes, str | bytes]


def write_members(path: Path, *members: Member) -> str:
    """Write a tar of (name, type, content or link target)."""
    with tarfile.open(path, "w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if isinstance(content, str):
                member.linkname = content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return str(path)


FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
X: Member = ("dir/x", FILE, b"content")


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ([X], "dir/x"),
        ([X], "./dir//x"),
        ([("./dir/x", FILE, b"content")], "dir/x"),
        ([("/dir/x", FILE, b"content")], "dir/x"),
        ([X, ("l", LINK, "dir/x")], "l"),
        ([X, ("dir/l", LINK, "x")], "dir/l"),
        ([X, ("other/l", LINK, "../dir/x")], "other/l"),
        ([X, ("other/l", LINK, "/dir/x")], "other/l"),
        ([X, ("other/h", HARD, "dir/x")], "other/h"),
        ([X, ("other/h", HARD, "./dir/x"), ("l", LINK, "other/h")], "l"),
        ([X, *((f"l{i + 1}", LINK, f"l{i}") for i in range(7)), ("l0", LINK, "dir/x")], "l7"),
        ([("blobs/x", FILE, b"old"), ("blobs/x", FILE, b"content")], "blobs/x"),
        ([X, X], "dir/x"),
        ([X, ("./dir/x", FILE, b"content"), X], "dir/x"),
        ([X, X, ("l", LINK, "dir/x"), ("l", LINK, "/dir/x")], "l"),
        ([X, ("l", FILE, b"content"), ("l", LINK, "dir/x"), ("l", HARD, "dir/x")], "l"),
    ],
)
def test_members(tmp_path: Path, members: list[Member], path: str) -> None:
    with closing(Archive.at(write_members(tmp_path / "a", *members))) as archive:
        assert archive.open(path).pread(100, 0) == b"content"


@pytest.mark.parametrize(
    ("members", "path", "error", "message"),
    [
        ([], "x", NotFoundError, "has no member x"),
        ([X], "x\x1b\n", NotFoundError, r"has no member x\\x1b\\n"),
        ([X], "", NotFoundError, "no member"),
        ([X], "../../etc/passwd", NotFoundError, "no member"),
        ([X, ("./dir/x", FILE, b"")], "dir/x", InvalidImageError, "occurs twice with different bytes"),
        ([("dir/x", FILE, b"CONTENT"), X], "dir/x", InvalidImageError, "occurs twice with different bytes"),
        ([X, ("l", LINK, "dir/x"), ("l", FILE, b"other..")], "l", InvalidImageError, "occurs twice"),
        ([X, ("dir/x", FILE, b"x"), ("l", LINK, "dir/x")], "l", InvalidImageError, "occurs twice"),
        ([X, ("dir/x", tarfile.DIRTYPE, b"")], "dir/x", InvalidImageError, "not a plain file"),
        ([("l", LINK, "k"), ("l", LINK, "k"), ("k", LINK, "l")] * 9, "l", LimitError, "more than 8 links"),
        ([("l", LINK, "../../../etc/passwd")], "l", NotFoundError, "no member"),
        ([("l", LINK, "/etc/passwd")], "l", NotFoundError, "no member etc/passwd"),
        ([("l", LINK, "l")], "l", LimitError, "more than 8 links"),
        ([("l", HARD, "k"), ("k", HARD, "l")], "l", LimitError, "more than 8 links"),
        ([("d", tarfile.DIRTYPE, b"")], "d", InvalidImageError, "not a plain file"),
        ([("d", tarfile.CHRTYPE, b"")], "d", InvalidImageError, "not a plain file"),
    ],
)
def test_bad_members(tmp_path: Path, members: list[Member], path: str, error: type[OcifsError], message: str) -> None:
    with closing(Archive.at(write_members(tmp_path / "a", *members))) as archive:
        assert ("dir/x" in archive) == (X in members)
        with pytest.raises(error, match=message) as caught:
            archive.open(path)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (lzma.compress(tar({"x": b""})), UnsupportedError, "compressed with xz, .*: decompress it with `xz -dk /.*`$"),
        (bz2.compress(tar({"x": b""})), UnsupportedError, "compressed with bzip2, .* `bzip2 -dk /.*`$"),
        (b"\x04\x22\x4d\x18", UnsupportedError, "compressed with lz4, .* `lz4 -dk /.*`$"),
        (b"text\n" * 1000, InvalidImageError, "not a usable archive: it is text$"),
        (b"<!doctype html><html>", InvalidImageError, "not a usable archive: it is HTML$"),
        (tar({"x": b"y" * 10_000})[:5000], InvalidImageError, "not a usable archive"),
        (tar({"x": b"y"})[:512], InvalidImageError, "not a usable archive"),
    ],
    ids=["xz", "bzip2", "lz4", "text", "HTML", "cut in data", "cut after a header"],
)
def test_bad_archives(tmp_path: Path, data: bytes, error: type[OcifsError], message: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        Archive.at(str(tmp_path / "a"))
    assert str(tmp_path / "a") in str(caught.value)


def test_files_that_hold_no_archive(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No such file"):
        Archive.at(str(tmp_path / "missing"))
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(UnsupportedError, match="not a regular file"):
            Archive.at(str(path))


def test_an_empty_file_has_no_members(tmp_path: Path) -> None:
    with closing(Archive.at(str(write_archive(tmp_path / "a", {})))) as archive:
        assert "x" not in archive


def bytes_read() -> int:
    """Return the bytes that this thread has read so far (proc_pid_io(5))."""
    return int(Path("/proc/thread-self/io").read_text().split()[1])


def test_equal_members_are_read_once_however_many_lead_to_them(tmp_path: Path) -> None:
    large = bytes(3 << 20)
    links: list[Member] = [(f"l{n}", HARD, target) for n in range(50) for target in ("a", "b")]
    path = write_members(tmp_path / "archive", ("a", FILE, large), ("b", FILE, large), *links)
    with closing(Archive.at(path)) as archive:
        before = bytes_read()
        for n in range(50):
            assert archive.open(f"l{n}").size == len(large)
        assert 2 * len(large) <= bytes_read() - before < 2.1 * len(large)
