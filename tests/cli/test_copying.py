"""`cp`: its options, streams, and directories that exist."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.in_process import Run, running
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, header, symlink, tar

MEMBERS = [
    file(b"etc/issue", b"issue\n", mode=0o4755, mtime=1_000_000_000),
    symlink(b"etc/link", b"issue"),
    symlink(b"lib", b"usr/lib"),
    file(b"usr/lib/a.so", b"a"),
    file(b"usr/lib/b.so", b"b"),
    directory(b"usr/lib/closed", mode=0o555),
    file(b"usr/lib/closed/c.so", b"c"),
    header(b"pipe", flag=b"6"),
    symlink(b"one/issue", b"/tmp/elsewhere"),
    file(b"two/issue", b"two"),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("cp") / "image", Image((Layer(tar(MEMBERS)),)))


@pytest.fixture
def ocifs(image: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    return running(capfdbinary, image.parent / "cache")


def names(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("IMG:/etc/issue OUT", ["issue"]),
        ("-a IMG:/etc/issue OUT", ["issue"]),
        ("-fL IMG:/etc/link OUT", ["link"]),
        ("-r IMG:/etc OUT", ["etc", "etc/issue", "etc/link"]),
        ("-r IMG:/etc/ OUT", ["etc", "etc/issue", "etc/link"]),
        ("-r IMG:/etc/. OUT", ["issue", "link"]),
        ("-rT IMG:/etc OUT", ["issue", "link"]),
        ("-r IMG:/usr/.. OUT/new", ["new", *(f"new/{each.decode()}" for each in (b"etc", b"lib", b"pipe"))]),
        ("-r IMG:/lib OUT", ["lib", "lib/a.so", "lib/b.so", "lib/closed", "lib/closed/c.so"]),
        ("-a IMG:/lib OUT", ["lib"]),
        ("-P IMG:/lib OUT/name", ["name"]),
        ("-r IMG:/etc IMG:/usr/lib/*.so OUT", ["a.so", "b.so", "etc", "etc/issue", "etc/link"]),
    ],
)
def test_where_a_copy_goes(ocifs: Run, image: Path, tmp_path: Path, line: str, made: list[str]) -> None:
    words = [word.replace("IMG", str(image)).replace("OUT", str(tmp_path)) for word in line.split()]
    assert ocifs("cp", *words) == (0, b"", "")
    found = names(tmp_path)
    assert found == made or ("new" in found and set(made) < set(found))


def test_archive_keeps_attributes_and_symlinks(ocifs: Run, image: Path, tmp_path: Path) -> None:
    ocifs("cp", "-a", image, "/etc/issue", "/etc/link", tmp_path)
    assert os.readlink(tmp_path / "link") == "issue"
    assert (tmp_path / "issue").stat().st_mtime == 1_000_000_000
    if os.geteuid() == 0:
        assert stat.S_IMODE((tmp_path / "issue").stat().st_mode) == 0o4755


def test_a_second_copy_is_merged(ocifs: Run, image: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert ocifs("cp", "-r", f"{image}:/etc", tmp_path) == (0, b"", "")
        (tmp_path / "etc/own").write_text("kept")
        (tmp_path / "etc/issue").write_text("old")
    assert ocifs("cp", "-rn", f"{image}:/etc", tmp_path) == (0, b"", "")
    assert (tmp_path / "etc/issue").read_text() == "old"
    assert ocifs("cp", "-n", f"{image}:/etc/issue", tmp_path / "etc") == (0, b"", "")
    assert (tmp_path / "etc/issue").read_text() == "old"
    assert ocifs("cp", "-r", f"{image}:/etc", tmp_path) == (0, b"", "")
    assert (tmp_path / "etc/issue").read_text() == "issue\n"
    assert names(tmp_path / "etc") == ["issue", "link", "own"]


def test_verbose_prints_each_copy(ocifs: Run, image: Path, tmp_path: Path) -> None:
    def printed(*arguments: str) -> list[str]:
        lines = ocifs("cp", *arguments).out.decode().splitlines()
        return [line.replace(str(tmp_path), "OUT") for line in lines]

    new = [f"'/etc{name}' -> 'OUT/etc{name}'" for name in ("", "/issue", "/link")]
    assert printed("-rv", f"{image}:/etc", str(tmp_path)) == new
    assert printed("-rv", f"{image}:/etc", str(tmp_path)) == new[1:]
    assert printed("-rnv", f"{image}:/etc", str(tmp_path)) == []
    assert printed("-v", f"{image}:/etc/issue", f"{tmp_path}/x") == ["'/etc/issue' -> 'OUT/x'"]


def test_no_symlink_of_the_image_is_followed(ocifs: Run, image: Path, tmp_path: Path) -> None:
    """The first copy makes `issue` a symlink that leads elsewhere; the second replaces it."""
    ocifs("cp", "-P", f"{image}:/one/issue", f"{image}:/two/issue", tmp_path)
    assert not (tmp_path / "issue").is_symlink()
    assert (tmp_path / "issue").read_text() == "two"
    (tmp_path / "etc").symlink_to("/etc")
    result = ocifs("cp", "-r", f"{image}:/etc", tmp_path)
    assert (result.code, result.err) == (1, f"ocifs: cannot replace {tmp_path}/etc: it is a symlink: remove it\n")


def test_a_dash_streams(ocifs: Run, image: Path) -> None:
    assert ocifs("cp", f"{image}:/etc/link", "-") == (0, b"issue\n", "")
    for path in ("/usr/lib", "/usr/lib/", "/lib"):
        result = ocifs("cp", f"{image}:{path}", "-")
        with tarfile.open(fileobj=io.BytesIO(result.out)) as archive:
            assert archive.getnames() == ["lib", "lib/a.so", "lib/b.so", "lib/closed", "lib/closed/c.so"]
    with tarfile.open(fileobj=io.BytesIO(ocifs("cp", image, "/", "-").out)) as archive:
        assert {".", "etc/issue"} <= set(archive.getnames())


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("IMG:/etc OUT", 5, "/etc: is a directory: give -r to copy it with all below it"),
        ("IMG:/pipe OUT", 5, "/pipe: not a regular file: `ocifs export` writes a directory with such files"),
        ("-r IMG:/pipe -", 5, "/pipe: not a regular file or directory"),
        ("-rL IMG:/etc OUT", 2, "-L cannot be combined with -r or -a"),
        ("IMG:/etc/issue /etc/link -", 2, "cp writes one file to standard output: `ocifs cat` prints several"),
        ("IMG:/etc/* OUT/none", 2, "/none is not a directory"),
        ("-T IMG:/etc/issue OUT", 1, "is a directory: remove it, or choose another place"),
        ("-i IMG:/etc/issue OUT", 2, "-i / --interactive is not supported: -n keeps existing files"),
        ("-u IMG:/etc/issue OUT", 2, "-u / --update is not supported: -n keeps existing files"),
        ("-t OUT IMG:/etc/issue", 2, "-t / --target-directory is not supported: name the directory last"),
        ("--parents IMG:/etc/issue OUT", 2, "--parents is not supported"),
        ("-r IMG:/ /", 1, "/ is the root directory of this machine: name a directory in it"),
    ],
)
def test_bad_input_is_one_line(ocifs: Run, image: Path, tmp_path: Path, line: str, code: int, message: str) -> None:
    words = [word.replace("IMG", str(image)).replace("OUT", str(tmp_path)) for word in line.split()]
    result = ocifs("cp", *words)
    assert (result.code, result.out) == (code, b"")
    assert message in result.err
    assert names(tmp_path) == []


def test_an_ordinary_user_merges_closed_directories(user: Ocifs) -> None:
    image = write_layout(user.home / "image", Image((Layer(tar(MEMBERS)),)))
    out = user.home / "out"
    (out / "lib").mkdir(parents=True)
    (out / "lib/own").write_text("kept")
    for path in (out, out / "lib", out / "lib/own"):
        os.chown(path, user.home.stat().st_uid, -1)
    assert user.output("cp", "-r", f"{image}:/usr/lib", out) == ""
    assert names(out / "lib") == ["a.so", "b.so", "closed", "closed/c.so", "own"]
    assert stat.S_IMODE((out / "lib/closed").stat().st_mode) == 0o555
    (out / "lib/closed").chmod(0o755)
    assert user.output("cp", "-r", f"{image}:/usr/lib", out) == ""
