"""Expressions of find, row by row: what GNU find prints for a copy of the files, or what to use instead."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ocifs.cli.verbs import cli
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, hardlink, header, symlink, tar

_MEMBERS = (
    directory(b"./", mode=0o755, mtime=1_000_000_000),
    directory(b"sub", mode=0o1777, mtime=1_000_000_000),
    directory(b"sub/empty", mtime=1_000_000_000),
    directory(b"sub/deep", mtime=1_000_000_000),
    file(b"sub/deep/a.txt", b"a" * 1500, mode=0o644, mtime=1_234_567_890),
    file(b"sub/deep/B.TXT", b"", mode=0o4755, mtime=1_234_567_891),
    file(b"sub/[x]", b"x" * 512, mode=0o600),
    file(b"new\nline", b"n" * 513, mode=0o640),
    file(b"space in name", b"s"),
    hardlink(b"linked", b"sub/deep/a.txt"),
    symlink(b"link", b"sub/deep/a.txt"),
    symlink(b"to-dir", b"sub"),
    symlink(b"dangling", b"nowhere"),
    symlink(b"loop", b"loop"),
    header(b"pipe", flag=b"6"),
)  # fmt: skip

_ROWS = r"""
.
sub link
sub/
. -maxdepth 1
. -mindepth 2 -maxdepth 2
. -name '*.txt'
. -iname '*.txt'
. -name '\[x\]'
. -path './sub/*'
. -ipath './SUB/*'
. -iwholename './SUB/*'
. -lname 'sub*'
. -ilname 'NO*'
. -regextype posix-extended -regex './(link|sub/.*\.txt)'
. -regextype posix-basic -regex './\(link\|pipe\)'
. -regextype egrep -iregex '.*/[[:alpha:]]+\.txt'
. -type f
. -type d,l
. -type p -o -type l
. -size 1 -type f
. -size +1 -type f
. -size -2k -type f
. -size 512c
. -empty
. -perm 644 -type f
. -perm -4000
. -perm /5000
. -links 2 -type f
. -samefile linked
. -newer sub/deep/a.txt
. -newermt 2009-02-13T23:31:30.5 -type f
. -mtime +1000 -type f
. -xdev -name link
. -mount -noleaf -warn -name link
. ! -name '*in*' -type f
. -not ( -type f -o -type d )
. -name sub -prune -o -type f -print
. -name sub -prune -o -print -name nothing
. -name link , -name loop
. -name link -print , -name loop -print
. ( -name link -o -name loop ) -a -type l
. -true -name link
. -false -o -name link
. -name link -print -print0
. -print0
. -maxdepth 0 -quit
link -print -quit -print
link loop -print -quit
. -printf '%p\n'
. -printf '%P|%H|%f|%h|%d\n'
sub/ link -printf '%P|%H|%f|%p\n'
. -printf '%y %Y %l %p\n'
. -type f -printf '%s %n %m %#m %M %p\n'
. -type f -printf '[%10s] [%-10s] [%05m] [%.3f] [%8.2f] [%-8f] [%+d] [%05d]\n'
. -type f -printf '%t|%T@|%T+|%TY-%Tm-%Td %TH:%TM:%TS|%TT|%Tc|%TA %TB %Tj|%Tk\n'
. -type f -printf '%p\0'
. -type f -printf '%%\t\\\101\v\a\b\f\r\n'
. -type f -printf 'x\cy\n'
. -maxdepth 0 -printf a -printf b -print
. -name link -printf '%U %G\n'
. -name link -printf '' -o -name loop
""".strip("\n").splitlines()


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    here = tmp_path_factory.mktemp("find")
    copy = here / "copy"
    copy.mkdir()
    content = tar(_MEMBERS)
    subprocess.run(["tar", "-xpf", "-", "-C", copy], input=content, check=True)
    return str(write_layout(here / "image", Image((Layer(content),)))), copy


Find = Callable[[list[str]], bytes]


@pytest.fixture(scope="module")
def run(copies: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Find:
    cache = str(tmp_path_factory.mktemp("cache"))

    def run(words: list[str]) -> bytes:
        result = CliRunner().invoke(cli, ["find", "--cache-dir", cache, copies[0], *words], standalone_mode=False)
        if isinstance(result.exception, Exception):
            raise result.exception
        assert result.stderr == ""
        return result.stdout_bytes

    return run


def _sorted(out: bytes) -> list[bytes]:
    """Return the output in an order that does not depend on that of directories."""
    return sorted(out.replace(b"\0", b"\0\n").split(b"\n"))


@pytest.mark.skipif(shutil.which("find") is None, reason="there is no find")
@pytest.mark.parametrize("row", _ROWS)
def test_as_find(copies: tuple[str, Path], run: Find, row: str) -> None:
    words = shlex.split(row)
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"], "TZ": os.environ.get("TZ", "")}
    ran = subprocess.run(["find", *words], cwd=copies[1], capture_output=True, check=False, env=environment)
    assert ran.stderr == b""
    assert _sorted(run(words)) == _sorted(ran.stdout)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("-exec ls {} ;", "-exec is not supported: pipe -print0 into `xargs -0 ocifs cat IMAGE`"),
        ("-execdir ls {} +", "mount the image"),
        ("-ok rm {} ;", "mount the image"),
        ("-delete", "an image is read-only"),
        ("-fprint list", "redirect the output with > FILE"),
        ("-depth", "sort -r"),
        ("-follow", "symlinks are not followed"),
        ("-atime 1", "an image has only modification times"),
        ("-newerct 2001-01-01", "an image has only modification times"),
        ("-readable", "use -perm"),
        ("-fstype ext4", "an image is one file system"),
        ("-daystart", "use -newermt"),
        ("-name x /usr", "paths go before the expression"),
        ("-name x -o -frobnicate", "-frobnicate is not a test: see `ocifs find --help`"),
        ("-name x )", "closes nothing"),
        ("! " * 200 + "-true", "nested more than 100 deep"),
        ("-regextype emacs", "the types are posix-extended"),
        ("-regextype grep -regex '['", "is not closed"),
        ("-printf", "what -printf takes is missing"),
        ("-printf %A@", "%A: an image has only modification times"),
        ("-printf %c", "%c: an image has only modification times"),
        ("-printf %F", "%F: an image has no such attribute"),
        ("-printf %q", "%q does not exist: write %% for a percent sign"),
        ("-printf %", "is incomplete"),
        ("-printf %5", "is incomplete"),
        ("-printf %T", "%T is incomplete|'%T' at character 1 is incomplete"),
        ("-printf %TE", "%TE does not exist"),
        ("-printf '\\q'", r"the escape \\q does not exist"),
        ("-printf %99999p", "widths have at most 10000"),
        ("-samefile", "missing"),
    ],
)
def test_what_to_use_instead(run: Find, row: str, says: str) -> None:
    with pytest.raises(click.UsageError, match=says) as error:
        run([".", *shlex.split(row)])
    assert str(error.value).isprintable()


@pytest.mark.parametrize(("option", "says"), [("-L", "symlinks are not followed"), ("-H", "symlinks are not followed")])
def test_options_before_the_image(copies: tuple[str, Path], option: str, says: str) -> None:
    result = CliRunner().invoke(cli, ["find", option, copies[0]])
    assert (result.exit_code, says in result.stderr) == (2, True)


def test_owners_have_the_names_of_the_image(run: Find) -> None:
    """The image has no /etc/passwd, so that no owner has a name, whatever the host calls uid 0."""
    assert run(["link", "-printf", "%u %g\n"]) == b"0 0\n"
    assert run(["link", "-nouser", "-nogroup"]) == b"link\n"
