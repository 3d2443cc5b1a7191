"""Options of diff that users of GNU diff type, in one process."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ocifs.cli.verbs import cli
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, tar

_BASE = [
    directory(b"etc"), file(b"etc/conf", b"a = 1\nb = 2\n"), file(b"etc/spaces", b"x  y\n"), file(b"etc/case", b"A\n"),
    file(b"etc/old", b"old\n"), file(b"bin", b"\0one\n"), file(b"log", b"l\n"),
]  # fmt: skip
_TOP = [
    file(b"etc/conf", b"a = 1\nb = 3\n"), file(b"etc/spaces", b"x y\n"), file(b"etc/case", b"a\n"),
    file(b"etc/.wh.old"), file(b"etc/new", b"new\n"), file(b"bin", b"\0two\n"), file(b"log", b"m\n"),
]  # fmt: skip

Diff = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Diff:
    here = tmp_path_factory.mktemp("diff")
    image = str(write_layout(here / "image", Image((Layer(tar(_BASE)), Layer(tar(_TOP))))))

    def run(*words: str) -> tuple[int, str]:
        arguments = ["--cache-dir", str(here / "cache"), *words, f"{image}~1", image]
        result = CliRunner().invoke(cli, ["diff", *arguments], standalone_mode=False)
        if isinstance(result.exception, Exception):
            raise result.exception
        return result.return_value, result.stdout

    return run


_ALL = {"/bin", "/etc/case", "/etc/conf", "/etc/new", "/etc/old", "/etc/spaces", "/log"}


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ("", ""),
        ("-rN", ""),
        ("-r --no-dereference --new-file", ""),
        ("-w", "/etc/spaces"),
        ("-b", "/etc/spaces"),
        ("-i", "/etc/case"),
        ("-wi", "/etc/spaces /etc/case"),
        ("-x log", "/log"),
        ("--exclude etc", "/etc/case /etc/conf /etc/new /etc/old /etc/spaces"),
        ("-x *s* -x b?n", "/bin /etc/case /etc/spaces"),
    ],
)
def test_which_files_differ(run: Diff, options: str, missing: str) -> None:
    status, out = run(*options.split())
    assert {line.split()[1] for line in out.splitlines()} == _ALL - set(missing.split())
    assert status == 1


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ("-u", "-A +a -b = 2 +b = 3 +new -old -x  y +x y -l +m"),
        ("-ru", "-A +a -b = 2 +b = 3 +new -old -x  y +x y -l +m"),
        ("-U 0", "-A +a -b = 2 +b = 3 +new -old -x  y +x y -l +m"),
        ("-uiw", "-b = 2 +b = 3 +new -old -l +m"),
        ("-ua -x etc -x log", "-\0one +\0two"),
    ],
)
def test_lines_of_all_text_files(run: Diff, options: str, lines: str) -> None:
    _, out = run(*options.split())
    changed = [line for line in out.splitlines() if line[:1] in "-+" and line[:3] not in {"---", "+++"}]
    assert " ".join(changed) == lines
    assert ("\n a = 1\n" in out) is ("U 0" not in options and "etc" not in options)


def test_what_is_ignored_is_no_difference(run: Diff) -> None:
    assert run("-wi", "-x", "conf", "-x", "new", "-x", "old", "-x", "bin", "-x", "log") == (0, "")


def test_colours(run: Diff) -> None:
    _, out = run("-u", "--color=always", "-x", "etc", "-x", "bin")
    assert "\x1b[31m-l\x1b[0m\n\x1b[32m+m\x1b[0m\n" in out
    assert run("--color", "-u") == run("-u", "--colour", "never")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("-y", "write -u, or -U N"),
        ("-c", "write -u, or -U N"),
        ("-s", "only differences are printed"),
        ("--ed", "write -u"),
        ("-U -1", "-1 is not in the range"),
        ("-U x", "not a valid integer"),
        ("--color=purple", "'purple' is not one of"),
    ],
)
def test_wrong_usage(run: Diff, options: str, says: str) -> None:
    with pytest.raises(click.UsageError, match=says):
        run(*options.split())


def test_brief_is_like_gnu(tmp_path: Path) -> None:
    base = [
        directory(b"etc"), file(b"etc/conf", b"1"), directory(b"etc/old"), file(b"etc/old/a", b"a"), file(b"same", b""),
        directory(b"etc/type"), file(b"etc/type/x", b"x"), file(b"top", b"t"),
    ]  # fmt: skip
    top = [
        file(b"etc/conf", b"2"), file(b"etc/.wh.old"), file(b"etc/type", b"now a file"), directory(b"etc/new"),
        file(b"etc/new/b", b"b"), file(b".wh.top"),
    ]  # fmt: skip
    image = str(write_layout(tmp_path / "image", Image((Layer(tar(base)), Layer(tar(top))))))
    before, after = f"{image}~1", image

    def brief(first: str, second: str) -> list[str]:
        words = ["diff", "--cache-dir", str(tmp_path / "cache"), "-rq", "--ignore", "mtime", first, second]
        result = CliRunner().invoke(cli, words, standalone_mode=False)
        assert result.return_value == 1
        return result.stdout.splitlines()

    assert brief(before, after) == [
        f"Files {before}:/etc/conf and {after}:/etc/conf differ",
        f"Only in {after}:/etc: new",
        f"Only in {before}:/etc: old",
        f"File {before}:/etc/type is a directory while file {after}:/etc/type is a regular file",
        f"Only in {before}:/: top",
    ]
    assert brief(f"{before}:/etc/old", f"{after}:/etc/new") == [
        f"Only in {before}:/etc/old: a",
        f"Only in {after}:/etc/new: b",
    ]
