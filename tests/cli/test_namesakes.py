"""Commands named after GNU tools print what those print of the same files, in a directory that tar extracted."""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.in_process import Run, running
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, hardlink, header, symlink, tar

DAY = 86_400
MEMBERS = [
    directory(b"d", mtime=5 * DAY),
    file(b"d/b.txt", b"b" * 2000, mode=0o755, mtime=3 * DAY),
    file(b"d/a.conf", b"a" * 10, mtime=1 * DAY),
    file(b"d/c", b"c" * 300, mode=0o4711, mtime=2 * DAY),
    file(b"d/tie", b"t" * 300, mtime=2 * DAY),
    file(b"d/.hidden", b"h", mtime=4 * DAY),
    symlink(b"d/link", b"a.conf"),
    symlink(b"d/up", b"../e"),
    symlink(b"d/dangling", b"nowhere"),
    header(b"d/pipe", flag=b"6"),
    hardlink(b"d/same", b"d/b.txt"),
    directory(b"e"),
    file(b"e/x", b"x"),
    directory(b"e/sub"),
    file(b"e/sub/y", b"y"),
    directory(b"e/sub/.dots"),
    file(b"e/sub/.dots/z", b"z"),
    directory(b"e/zzz"),
    file("e/é wide 漢字".encode(), b"w"),
    file(b"one", b"1\n"),
    file(b"lines", b"".join(b"line %d\n" % n for n in range(1, 31))),
    file(b"unended", b"a\n\nb\nc"),
    file(b"empty", b""),
    file(b"binary", bytes(range(256)) * 20),
    symlink(b"to_e", b"e"),
    file(b"it's", b""),
    file(b"two\nlines\x1b", b""),
    file(b"etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
    file(b"etc/group", b"root:x:0:\n"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the image, and the same files in `extracted`."""
    made = tmp_path_factory.mktemp("namesakes")
    write_layout(made / "image", Image((Layer(tar(MEMBERS)),)))
    (made / "extracted").mkdir()
    command = ["tar", "-xp", "--numeric-owner", "-C", str(made / "extracted")]
    subprocess.run(command, input=tar(MEMBERS), check=True)
    return made


@pytest.fixture
def ocifs(place: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        patch.setenv("COLUMNS", "80")
        time.tzset()
        yield running(capfdbinary, place / "cache")
    time.tzset()


def gnu(place: Path, line: str) -> bytes:
    variables = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", "COLUMNS": "80"}
    variables.pop("LS_COLORS", None)
    command = [word for word in shlex.split(line) if word != "IMAGE"]
    return subprocess.run(command, cwd=place / "extracted", env=variables, check=True, stdout=subprocess.PIPE).stdout


def output(ocifs: Run, place: Path, line: str) -> bytes:
    """Return what ocifs prints; IMAGE goes in front of the first operand, or where the line has it."""
    verb, *words = shlex.split(line)
    if "IMAGE" not in words:
        options = max((place for place, word in enumerate(words) if word.startswith("-")), default=-1) + 1
        words.insert(options, "IMAGE")
    result = ocifs(verb, *(str(place / "image") if word == "IMAGE" else word for word in words))
    assert (result.code, result.err) == (0, "")
    return result.out


@pytest.mark.parametrize(
    "line",
    [
        "ls d",
        "ls -1 d",
        "ls -a d",
        "ls -A d",
        "ls -r d",
        "ls -U1 e/sub/y",
        "ls -t d/a.conf d/b.txt d/c d/tie",
        "ls -tr d/a.conf d/b.txt d/c d/tie",
        "ls -S d/a.conf d/b.txt d/c d/tie",
        "ls -rS d/a.conf d/b.txt d/c d/tie",
        "ls -S -t d/a.conf d/b.txt d/c d/tie",
        "ls -X d",
        "ls -F d",
        "ls -p d",
        "ls -AF d",
        "ls -d d e one",
        "ls -d -F d e to_e",
        "ls d e",
        "ls e d",
        "ls -r d e one",
        "ls one lines e",
        "ls -R e",
        "ls -RA e",
        "ls -Ra e/sub",
        "ls -Rr e",
        "ls -R d e one",
        "ls to_e",
        "ls -d to_e",
        "ls -F to_e",
        "ls -H -F to_e",
        "ls to_e/",
        "ls -CT0 d",
        "ls -CT0 -F d",
        "ls -CT0 e one lines unended empty binary",
        "ls --group-directories-first -F e",
        "ls -A --group-directories-first -r e",
        "ls -ln --time-style=long-iso d/a.conf d/b.txt d/c d/link d/pipe",
        "ls -lnF --time-style=long-iso d/b.txt d/link d/up d/dangling d/pipe",
        "ls -lnh --time-style=long-iso d/a.conf d/b.txt",
        "ls -ldnt --time-style=long-iso d/a.conf d/b.txt d/c",
    ],
)
def test_ls(ocifs: Run, place: Path, line: str) -> None:
    ours = line.replace("--time-style=long-iso", "").replace("T0", "")
    assert output(ocifs, place, ours) == gnu(place, line)


def test_ls_json_has_paths(ocifs: Run, place: Path) -> None:
    def paths(line: str) -> list[str]:
        return [json.loads(each)["path"] for each in output(ocifs, place, line).splitlines()]

    assert paths("ls --json d") == [".hidden", "a.conf", "b.txt", "c", "dangling", "link", "pipe", "same", "tie", "up"]
    assert paths("ls --json -t one d/a.conf d/b.txt") == ["d/b.txt", "d/a.conf", "one"]
    assert paths("ls --json -R e/sub/") == [".dots", "y", ".dots/z"]
    assert paths("ls --json e/sub/.dots /etc") == ["/etc/group", "/etc/passwd", "e/sub/.dots/z"]


def test_ls_inodes_are_those_of_stat(ocifs: Run, place: Path) -> None:
    names = ["d/b.txt", "d/same", "one"]
    listed = [line.split() for line in ocifs("ls", "-i", place / "image", *names).out.decode().splitlines()]
    told = ocifs("stat", "-c", "%i %n", place / "image", *names).out.decode().splitlines()
    assert listed == [line.split() for line in told]
    assert listed[0][0] == listed[1][0] != listed[2][0]
    long = ocifs("ls", "-il", place / "image", *names).out.decode().splitlines()
    assert [line.split()[0] for line in long] == [inode for inode, _ in listed]


@pytest.mark.parametrize(
    "form",
    [
        "%n",
        "%s %a %A %n",
        "%#a|%04a|%6a|%-6a|",
        "%F",
        "%f %#f",
        "%h",
        "%N",
        "%u %U %g %G",
        "%y|%Y",
        "%t,%T %Hr,%Lr %r",
        "%10s|%-10s|%010s|%+s|",
        "%.3n|%8.3n|%-8.3n|",
        "%B %%n %%",
        r"no \n escape",
        "100%% 5%",
    ],
)
def test_stat_format(ocifs: Run, place: Path, form: str) -> None:
    files = 'd/a.conf d/c d/link d/dangling d/pipe empty one "it\'s" e/é*'
    line = f"stat -c '{form}' IMAGE {files}"
    assert output(ocifs, place, line) == gnu(place, line.replace("e/é*", "'e/é wide 漢字'"))


def test_stat_format_of_odd_names_and_directories(ocifs: Run, place: Path) -> None:
    odd = str(place / "extracted")
    for form, name in (("%N", "two\nlines\x1b"), ("%n", "two\nlines\x1b"), ("%A %F %n", "d"), ("%F %s", "etc/passwd")):
        expected = subprocess.run(["stat", "-c", form, name], cwd=odd, check=True, capture_output=True).stdout
        assert ocifs("stat", "-c", form, place / "image", name).out == expected


@pytest.mark.parametrize("form", [r"%n\n", r"%n\t%s\x41\101\\", r"a\qb%%"])
def test_stat_printf(ocifs: Run, place: Path, form: str) -> None:
    line = f"stat --printf '{form}' IMAGE one d/c"
    assert output(ocifs, place, line) == gnu(place, line.replace("\\q", "q"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stat -c %d IMAGE one", "'%d' is not supported: use %a %A %b"),
        ("stat -c %q IMAGE one", "'%q' is not supported: use %a %A %b"),
        ("stat -c %5 IMAGE one", "'%5' is not supported: use %a"),
        ("stat -t IMAGE one", "-t / --terse is not supported: -c FORMAT"),
        ("stat -f IMAGE one", "-f / --file-system is not supported"),
        ("ls -L IMAGE one", "-L / --dereference is not supported: -H follows each PATH"),
        ("ls -c IMAGE one", "is not supported: an image has modification times only: -t"),
        ("ls -v IMAGE one", "-v is not supported: pipe `ocifs ls -1` into `sort -V`"),
        ("ls --full-time IMAGE one", "is not supported: `ocifs stat -c '%y %n'`"),
    ],
)
def test_what_ocifs_lacks_has_an_alternative(ocifs: Run, place: Path, line: str, message: str) -> None:
    result = ocifs(*(str(place / "image") if word == "IMAGE" else word for word in line.split()))
    assert (result.code, result.out) == (2, b"")
    assert message in result.err
