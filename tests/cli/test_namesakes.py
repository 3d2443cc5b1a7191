"""Commands named after GNU tools print what those print of the same files, in a directory that tar extracted."""

import json
import os
import re
import shlex
import shutil
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
    if "IMAGE" not in line:
        options = max((place for place, word in enumerate(words) if word.startswith("-")), default=-1) + 1
        words.insert(options, "IMAGE")
    result = ocifs(verb, *(word.replace("IMAGE", str(place / "image")) for word in words))
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
    "line",
    [
        "head IMAGE lines",
        "head -n 3 IMAGE lines",
        "head -3 IMAGE lines",
        "head -n -3 IMAGE lines",
        "head -n -99 IMAGE lines",
        "head -n 0 IMAGE lines",
        "head -n 2 IMAGE unended",
        "head -n -1 IMAGE unended",
        "head -c 7 IMAGE lines",
        "head -c -7 IMAGE lines",
        "head -c 1k IMAGE binary",
        "head -n 4 IMAGE binary",
        "head -n 2 IMAGE lines one empty unended",
        "head -q -n 2 IMAGE lines one",
        "head -v -n 2 IMAGE lines",
        "tail IMAGE lines",
        "tail -n 3 IMAGE lines",
        "tail -3 IMAGE lines",
        "tail -n 99 IMAGE lines",
        "tail -n 0 IMAGE lines",
        "tail -n -3 IMAGE lines",
        "tail -n +28 IMAGE lines",
        "tail +28 IMAGE lines",
        "tail -n +0 IMAGE lines",
        "tail -n +1 IMAGE lines",
        "tail -n +99 IMAGE lines",
        "tail -n 1 IMAGE unended",
        "tail -n 2 IMAGE unended",
        "tail -n 3 IMAGE unended",
        "tail -c 7 IMAGE lines",
        "tail -c +100 IMAGE lines",
        "tail -c +0 IMAGE lines",
        "tail -c 99999 IMAGE lines",
        "tail -n 4 IMAGE binary",
        "tail -n 2 IMAGE lines one empty unended",
        "tail -qn2 IMAGE lines one",
        "tail -v -n 2 IMAGE lines",
        "cat IMAGE lines one unended",
        "cat -u IMAGE lines",
    ],
)
def test_head_tail_and_cat(ocifs: Run, place: Path, line: str) -> None:
    assert output(ocifs, place, line) == gnu(place, line)


def test_a_count_may_follow_the_image(ocifs: Run, place: Path) -> None:
    assert output(ocifs, place, "head IMAGE lines -3") == gnu(place, "head -3 lines")
    assert output(ocifs, place, "tail IMAGE:/lines -3") == gnu(place, "tail -3 lines")


@pytest.mark.parametrize(
    "line",
    [
        "du -b IMAGE one lines d/b.txt",
        "du -bc IMAGE one lines d/b.txt d/same d/link",
        "du -b IMAGE d/b.txt d/same",
        "du --apparent-size IMAGE d/b.txt d/c",
        "du --apparent-size -k IMAGE d/b.txt",
        "du --apparent-size -m IMAGE d/b.txt",
        "du --apparent-size -h IMAGE d/b.txt lines binary",
        "du -s -bc IMAGE one lines",
        "du -0b IMAGE one lines",
        "du -xb IMAGE one",
    ],
)
def test_du(ocifs: Run, place: Path, line: str) -> None:
    assert output(ocifs, place, line) == gnu(place, line)


@pytest.mark.parametrize(
    "line",
    [
        "du IMAGE e",
        "du -a IMAGE e",
        "du -d 1 IMAGE e d",
        "du -sc IMAGE e/sub e",
        "du -c IMAGE e e/sub",
        "du -ca IMAGE e/sub e",
    ],
)
def test_du_of_directories_has_the_same_paths(ocifs: Run, place: Path, line: str) -> None:
    """Their order and sizes depend on the file system."""

    def paths(lines: bytes) -> list[bytes]:
        return sorted(each.partition(b"\t")[2] for each in lines.splitlines())

    assert paths(output(ocifs, place, line)) == paths(gnu(place, line))


needs_tree = pytest.mark.skipif(shutil.which("tree") is None, reason="needs tree(1)")


@needs_tree
@pytest.mark.parametrize(
    "line",
    [
        "tree IMAGE d",
        "tree -a IMAGE d",
        "tree -L 1 IMAGE e",
        "tree -d IMAGE e",
        "tree -f IMAGE e",
        "tree -fi IMAGE e",
        "tree -i IMAGE d",
        "tree -F IMAGE d e",
        "tree -p IMAGE d",
        "tree -I '*.txt|.*' -a IMAGE d",
        "tree -I sub IMAGE e",
        "tree -I sub/ IMAGE e",
        "tree -P 'y|x' IMAGE e",
        "tree -P '*.TXT' --ignore-case IMAGE d",
        "tree --dirsfirst IMAGE e",
        "tree --noreport IMAGE d",
        "tree IMAGE d e",
        "tree -x IMAGE e",
    ],
)
def test_tree(ocifs: Run, place: Path, line: str) -> None:
    theirs = gnu(place, line.replace("tree ", "tree --charset=UTF-8 -N ", 1)).decode()
    assert output(ocifs, place, line).decode() == theirs.replace("\xa0", " ")


def test_tree_du_adds_up(ocifs: Run, place: Path) -> None:
    def size(line: str) -> int:
        return int(re.search(r"\d+", line)[0])  # type: ignore[index]

    lines = output(ocifs, place, "tree --du -L 1 IMAGE e/sub").decode().splitlines()
    (apparent,) = output(ocifs, place, "ls -ld IMAGE e/sub").decode().splitlines()
    assert size(lines[0]) == size(lines[1]) + int(apparent.split()[4]) == int(apparent.split()[4]) + 1
    assert lines[-1] == f"{size(lines[0])} bytes used in 1 directory, 1 file"
    deep = output(ocifs, place, "tree --du -L 1 IMAGE e").decode()
    assert deep.splitlines()[:2] == output(ocifs, place, "tree --du IMAGE e").decode().splitlines()[:2]
    assert re.search(r"\[ *1\.0K\]  x|\[   1\]  x", output(ocifs, place, "tree -h --du IMAGE e").decode())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tree -C IMAGE d", "-C is not supported: --color always"),
        ("tree --prune IMAGE d", "is not supported: `ocifs find IMAGE PATH -name PATTERN`"),
        ("tree -J IMAGE d", "-J is not supported: --json"),
        ("du -s -a IMAGE one", "-s and -a exclude each other"),
        ("du -s -d 1 IMAGE one", "-s and -d exclude each other"),
        ("du -BM IMAGE one", "-B / --block-size is not supported: -b, -k, -m or -h"),
        ("du --exclude=x IMAGE one", "is not supported: `ocifs find IMAGE PATH ! -name PATTERN -ls`"),
        ("head -z IMAGE one", "-z / --zero-terminated is not supported: pipe `ocifs cat` into it with -z"),
        ("tail -f IMAGE one", "-f / --follow is not supported: the files of an image never change: leave it out"),
        ("tail -n 2 -f IMAGE one", "-f / --follow is not supported: the files of an image never change: leave it out"),
        ("tail -n x IMAGE one", "'x' is not a number; write 5, 64k or 10MiB"),
        ("tail -n 1 -c 1 IMAGE one", "-n and -c exclude each other"),
        ("head IMAGE", "missing argument PATH..."),
        ("cat -n IMAGE one", "is not supported: pipe the output into `cat -n`"),
        ("cat -A IMAGE one", "-A / --show-all is not supported: pipe the output into `cat -A`"),
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
