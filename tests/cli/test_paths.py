"""`IMAGE:/PATH` and patterns, for every command that takes paths in an image."""

import json
from pathlib import Path

import pytest

from tests.cli.in_process import Run, running
from tests.images import Image, Layer, write_layout
from tests.tars import file, symlink, tar

Words = list[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a layout of two layers and a cache."""
    made = tmp_path_factory.mktemp("paths")
    base = [file(b"etc/a.conf", b"a\n"), file(b"etc/b.conf", b"b\n"), file(b"usr/x", b"x\n"), symlink(b"link", b"etc")]
    top = [file(b"etc/b.conf", b"B\n"), file(b"usr/[x]", b"literal\n")]
    write_layout(made / "image", Image((Layer(tar(base)), Layer(tar(top)))))
    return made


@pytest.fixture
def ocifs(place: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    return running(capfdbinary, place / "cache")


def words(place: Path, line: str) -> Words:
    return [str(place / "out") if word == "OUT" else word.replace("IMG", f"{place}/image") for word in line.split()]


@pytest.mark.parametrize(
    ("joined", "separate"),
    [
        ("ls IMG:/etc", "ls IMG /etc"),
        ("ls IMG:latest:/etc", "ls IMG:latest /etc"),
        ("ls IMG:latest~1:/etc", "ls IMG:latest~1 /etc"),
        ("ls oci:IMG:latest:/etc", "ls IMG /etc"),
        ("ls IMG:/", "ls IMG"),
        ("ls -d IMG:/etc/*.conf", "ls -d IMG /etc/a.conf /etc/b.conf"),
        ("tree IMG:/etc", "tree IMG /etc"),
        ("stat IMG:/etc/a.conf", "stat IMG /etc/a.conf"),
        ("stat IMG:/etc/*", "stat IMG /etc/a.conf /etc/b.conf"),
        ("which IMG:/etc/b.conf", "which IMG /etc/b.conf"),
        ("du -b IMG:/usr", "du -b IMG /usr"),
        ("du -b IMG:/* /etc", "du -b IMG /etc /link /usr"),
        ("cat IMG:/etc/a.conf", "cat IMG /etc/a.conf"),
        ("cat IMG:/etc/a.conf /etc/b.conf", "cat IMG /etc/a.conf /etc/b.conf"),
        ("cat IMG:/etc/a.conf IMG:/etc/b.conf", "cat IMG /etc/a.conf /etc/b.conf"),
        ("cat IMG:/link/*.conf", "cat IMG /etc/a.conf /etc/b.conf"),
        ("cat IMG:/usr/[x]", "cat IMG /usr/[x]"),
        ("cat --layer 0 IMG:/usr/[x]", "cat IMG /usr/x"),
        ("cat IMG **/*.conf", "cat IMG /etc/a.conf /etc/b.conf"),
        ("head IMG:/etc/*.conf", "head IMG /etc/a.conf /etc/b.conf"),
        ("grep -n . IMG:/etc", "grep -n . IMG /etc"),
        ("grep . IMG:/etc/*", "grep . IMG /etc/a.conf /etc/b.conf"),
        ("find IMG:/etc -name a*", "find IMG /etc -name a*"),
        ("find IMG:/etc/*", "find IMG /etc/a.conf /etc/b.conf"),
        ("find IMG -type f", "find IMG:/ -type f"),
        ("diff IMG~1:/etc IMG:/etc", "diff IMG~1 IMG /etc"),
        ("export --to-tar OUT IMG:/etc", "export --to-tar OUT IMG /etc"),
    ],
)
def test_both_forms_do_the_same(ocifs: Run, place: Path, joined: str, separate: str) -> None:
    expected = ocifs(*words(place, separate))
    exported = (place / "out").read_bytes() if "OUT" in separate else b""
    (place / "out").unlink(missing_ok=True)
    assert expected.code in {0, 1}
    assert expected.err == ""
    shown = ocifs(*words(place, joined))
    assert shown._replace(out=shown.out.replace(b"/link/", b"/etc/")) == expected
    assert ((place / "out").read_bytes() if exported else b"") == exported
    (place / "out").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("line", "copied"),
    [
        ("IMG:/etc/a.conf OUT", ["a.conf"]),
        ("IMG:latest:/etc/a.conf IMG:latest:/usr/x OUT", ["a.conf", "x"]),
        ("IMG:/etc/*.conf OUT", ["a.conf", "b.conf"]),
        ("IMG /etc/[ab].conf /usr/[x] OUT", ["[x]", "a.conf", "b.conf"]),
        ("-r IMG:/etc OUT", ["etc"]),
    ],
)
def test_cp_takes_both_forms_and_patterns(ocifs: Run, place: Path, tmp_path: Path, line: str, copied: Words) -> None:
    arguments = [str(tmp_path) if word == "OUT" else word for word in line.split()]
    assert ocifs("cp", *words(place, " ".join(arguments))) == (0, b"", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == copied


def test_diff_compares_different_paths(ocifs: Run, place: Path) -> None:
    result = ocifs("diff", "--json", *words(place, "IMG:/etc/a.conf IMG:/etc/b.conf"))
    found = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 1
    assert [(each["path"], each["aspects"]) for each in found] == [("/etc/a.conf", ["content"])]
    assert ocifs("diff", *words(place, "IMG:/link IMG:/etc")).code == 0


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("cat IMG:/etc/*.none", 3, "/etc/*.none: no file in the image matches"),
        ("cat IMG:/none", 3, "/none: no such file or directory in the image: its nearest parent is /"),
        ("cat IMG", 2, "missing argument PATH..."),
        ("stat IMG", 2, "missing argument PATH..."),
        ("cp IMG OUT", 2, "missing argument PATH..."),
        ("cat IMG:/etc/a.conf other:/etc/b.conf", 2, "'other:/etc/b.conf' is in another image: name one image"),
        ("export --to-tar OUT IMG:/etc /usr", 2, "the path is given twice: '/etc' and '/usr'"),
        ("diff IMG:/etc IMG", 2, "name a path in both images, as IMAGE1:/PATH IMAGE2:/PATH, or one PATH after them"),
        ("diff IMG:/etc IMG:/etc /usr", 2, "name a path in both images"),
        ("diff IMG:/etc IMG:/none", 3, "/none: no such file or directory in the image"),
        ("verify IMG:/etc", 2, "IMAGE: '/etc' is a path in the image: name a whole image here"),
        ("inspect IMG:latest:/etc", 2, "IMAGE: '/etc' is a path in the image: name a whole image here"),
        ("cat nowhere:/etc/a.conf", 3, "no such file or directory: 'nowhere'"),
    ],
)
def test_bad_input_is_one_line(ocifs: Run, place: Path, line: str, code: int, message: str) -> None:
    result = ocifs(*words(place, line))
    assert (result.code, result.out) == (code, b"")
    assert message in result.err
    assert "Traceback" not in result.err
