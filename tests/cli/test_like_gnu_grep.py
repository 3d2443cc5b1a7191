"""Options of grep, row by row: what GNU grep prints for a copy of the files, and with which exit status."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ocifs.cli.verbs import cli
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar

_FILES = {
    "a": b"one\ntwo words\n\nthree\nfour\nfive\nsix\none more\nlast one",
    "b": b"One\nONE\nanother\nx|y\na+b (c) [d] $e\n*star\nab abab aab\n",
    "c.py": b"import os\n\timport sys\ndef f():\n    pass\n",
    "nul": b"first\nrecord\0second one\nx\0third",
    "bin": b"one\0two\none\n",
    "crlf": b"one\r\ntwo\r\n",
    "empty": b"",
    "patterns": b"two\nsix\n",
}

_ROWS = """
one a
-n one a b
-E one|six a
-E (one|two).*o? a
-E a{2}b b
-E (ab)\\1 b
-E ^\\*s b
-E \\<ab\\> b
-E [[:upper:]]+ b
-E [^[:alnum:]]$ a b
-E -o [[:alpha:]]+ a
-G one\\|six a
-G \\(ab\\)\\1 b
-G a+b b
-G (c) b
-G *star b
-G [d] b
-G a\\{2\\}b b
-G \\<one a
-G x|y b
-F a+b b
-F -o a+b b
-F -i one a b
-F -x one a
-P \\bone\\b(?=\\smore) a
-P \\d|six a
-i one a b
-y one b
-w one a b
-x one a b
-x -v one a
-v one a
-v -n o a
-v -c o a b
-o o a
-o -n o a b
-o -i one b
-o -v o a
-c one empty a b
-c -v . a
-l one a b c.py
-L one a b c.py
-L zzz a b
-l -v one a b
-q one a
-q zzz a
-q one missing a
-s one missing
-m 1 one a b
-m 0 one a
-m 1 -c one a
-m 1 -A 1 one a
-m 2 -v o a
-A 1 -n two a
-B 1 -n six a
-C 1 -n four a b
-C 2 one a
-A 1 -B 2 five a
-C 1 --no-group-separator one a b
-C 1 --group-separator == one a b
-C 1 -o one a
-C 1 -v o a
-C 99 six a
-A 1 -c one a
-H one a
-h one a b
-H -c one a
-Z one a b
-l -Z one a b
-c -Z one a b
-z -c o nul
-z second nul
-z ^x nul
-z a.b nul
-z -o t.* nul
-e one -e six a
-n -e two -e six a b
-e one --exclude a a b
-f patterns a
-f patterns -e five a
-f empty a
-f empty -v a
-a one bin
-a -c one bin
-c one bin
-l one bin
-I one bin a
-I -c one bin
-I -L one bin
one$ crlf
-E one.$ crlf
-r -n import c.py
--no-messages one missing
--count one a
--ignore-case --word-regexp --only-matching ONE a
--color=always one b
--color=never one a
--colour=never one a
--color -n one a
--line-buffered one a
-E () a
-E a| b
-w -o [a-z]* a
-E -w -o on|one a
""".strip().splitlines()


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp("grep")
    (directory / "copy").mkdir()
    for name, content in _FILES.items():
        (directory / "copy" / name).write_bytes(content)
    layer = Layer(tar([file(name.encode(), content) for name, content in _FILES.items()]))
    return str(write_layout(directory / "image", Image((layer,)))), directory / "copy"


Grep = Callable[[list[str]], tuple[int, bytes, str]]


@pytest.fixture(scope="module")
def run(copies: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Grep:
    cache = str(tmp_path_factory.mktemp("cache"))

    def run(words: list[str]) -> tuple[int, bytes, str]:
        before = os.getcwd()
        os.chdir(copies[1])  # -f names a file of the host
        try:
            result = CliRunner().invoke(cli, ["grep", "--cache-dir", cache, *words], standalone_mode=False)
        finally:
            os.chdir(before)
        if isinstance(result.exception, Exception):
            raise result.exception
        return result.return_value, result.stdout_bytes, result.stderr

    return run


def _in_image(words: list[str], image: str) -> list[str]:
    """Put IMAGE behind the pattern, or before the paths if options hold the patterns."""
    place = next(
        number
        for number, word in enumerate(words)
        if word in {*_FILES, "missing"} and words[number - 1] not in {"-f", "--exclude"}
    )
    return [*words[:place], image, *words[place:]]


@pytest.mark.skipif(shutil.which("grep") is None, reason="there is no grep")
@pytest.mark.parametrize("row", _ROWS)
def test_as_grep(copies: tuple[str, Path], run: Grep, row: str) -> None:
    image, directory = copies
    words = row.split(" ")
    ran = subprocess.run(
        ["grep", *words],
        cwd=directory,
        capture_output=True,
        check=False,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
    )
    assert ran.returncode in {0, 1, 2}
    status, out, _ = run(_in_image(words, image))
    expected = ran.stdout.replace(b"\x1b[K", b"").replace(b"\x1b[m", b"\x1b[0m")
    assert (status, out) == ({2: 3}.get(ran.returncode, ran.returncode), expected)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["(", "IMAGE"], "PATTERN: .*: -F searches for text"),
        (["-E", "a{3,2}", "IMAGE"], "repetitions must be ordered"),
        (["-E", "[[:vowel:]]", "IMAGE"], "takes alnum alpha"),
        (["-E", "[b-a]", "IMAGE"], "a range in .* ends before it begins"),
        (["-G", "a\\", "IMAGE"], "a backslash at the end"),
        (["-E", "(a", "IMAGE"], "is not closed"),
        (["-E", r"\1(a)", "IMAGE"], "refers to no group"),
        (["-f", "nowhere", "IMAGE"], "-f nowhere: No such file"),
        (["-f", "/dev/zero", "IMAGE"], "at most 1 MiB"),
        (["-e", "x"], "Missing parameter: image"),
        (["-e"], "requires an argument"),
        (["-A", "-1", "x", "IMAGE"], "-1 is not in the range"),
        (["-m", "x", "x", "IMAGE"], "not a valid integer"),
        (["--color=purple", "x", "IMAGE"], "'purple' is not one of"),
        (["-b", "x", "IMAGE"], "--byte-offset is not supported: mount the image"),
        (["-3", "x", "IMAGE"], "-3 is not supported: write -C N"),
        (["--binary-files=text", "x", "IMAGE"], "write -a for text"),
        (["-d", "skip", "x", "IMAGE"], "only regular files are searched"),
    ],
    ids=str,
)
def test_wrong_usage(copies: tuple[str, Path], run: Grep, words: list[str], says: str) -> None:
    with pytest.raises(click.UsageError, match=says):
        run([copies[0] if word == "IMAGE" else word for word in words])


@pytest.mark.parametrize(
    ("pattern", "hints"), [(r"one\|zzz", True), (r"zzz\(", True), ("zzz", False), (r"o\w\w", False)]
)
def test_a_basic_pattern_that_matches_nothing_gets_a_hint(
    copies: tuple[str, Path], run: Grep, pattern: str, hints: bool
) -> None:
    _, _, told = run([pattern, copies[0], "a"])
    assert (": -G takes the patterns of plain grep" in told) is hints


def test_json_of_parts_and_context(copies: tuple[str, Path], run: Grep) -> None:
    _, out, _ = run(["--json", "-o", "-C1", "f[a-z]*", copies[0], "a"])
    assert [json.loads(line)["line"] for line in out.splitlines()] == ["four", "five"]
    _, out, _ = run(["--json", "-B1", "four", copies[0], "a"])
    assert [json.loads(line).get("context") for line in out.splitlines()] == [True, None]


def test_directories_and_names_are_left_out(copies: tuple[str, Path], run: Grep) -> None:
    _, out, _ = run(["-l", "one", copies[0], "--exclude", "b*", "--include", "*a*", "--include", "b*"])
    assert out == b"/a\n"
