"""Texts as unified diffs."""

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.report.textdiff import Comparison, equal_texts, is_text, unified_diff


def _diff(before: bytes, after: bytes) -> list[bytes]:
    return list(unified_diff(before, after, (b"a/x", b"b/x")))


def test_lines_with_and_without_an_end() -> None:
    assert _diff(b"one\ntwo\n", b"one\n-- 2") == [
        b"--- a/x",
        b"+++ b/x",
        b"@@ -1,2 +1,2 @@",
        b" one",
        b"-two",
        b"+-- 2",
        b"\\ No newline at end of file",
    ]
    assert _diff(b"", b"x\r\n\xff\n") == [b"--- a/x", b"+++ b/x", b"@@ -0,0 +1,2 @@", b"+x\r", b"+\xff"]
    assert _diff(b"same", b"same") == []
    assert _diff(b"x\r\ry\n", b"x\r\ry\n\n")[3:] == [b" x\r\ry", b"+"]


@pytest.mark.parametrize(("data", "text"), [(b"", True), (b"\xff\n", True), (b"a\0", False)])
def test_is_text(data: bytes, text: bool) -> None:
    assert is_text(data) is text


_TEXT = st.lists(st.sampled_from([b"a", b"b", b"\n", b"--- c", b"\\ d", b"\r"]), max_size=12).map(b"".join)


@given(_TEXT, _TEXT)
def test_the_one_can_be_made_of_the_other(before: bytes, after: bytes) -> None:
    left = before.split(b"\n")
    made: list[bytes] = []
    at = 0
    last = b""
    for line in _diff(before, after)[2:]:
        if hunk := re.match(rb"@@ -(\d+)(?:,(\d+))? ", line):
            begin = int(hunk[1]) - (hunk[2] != b"0")
            made += [kept + b"\n" for kept in left[at:begin]]
            at = begin
        elif line.startswith(b"\\"):
            made[-1:] = [made[-1].removesuffix(b"\n")] if last != b"-" else made[-1:]
        else:
            last = line[:1]
            at += last != b"+"
            made += [line[1:] + b"\n"] if last != b"-" else []
    rest = b"\n".join(left[at:])
    assert b"".join(made) + rest == after


_CHANGED = (
    b"one\n\ttwo  words\nthree\nfour\nFive\nsix\r\nseven\n\n\neight\nnine\nten\neleven\ntwelve\nlast",
    b"one\n two words \nth ree\nfour\nfive\nsix\nseven\neight\nnine\nten\neleven\ntwelve!\nlast",
)


@pytest.mark.parametrize(
    ("flags", "how"),
    [
        ("-u", Comparison()),
        ("-U0", Comparison(context=0)),
        ("-U1", Comparison(context=1)),
        ("-uw", Comparison(space="all")),
        ("-ub", Comparison(space="amount")),
        ("-ui", Comparison(ignore_case=True)),
        ("-uiwB", Comparison(space="all", ignore_case=True, ignore_blank=True)),
        ("-U0 -B", Comparison(context=0, ignore_blank=True)),
        ("-u --strip-trailing-cr", Comparison(ignore_cr=True)),
    ],
)
def test_options_as_those_of_diff(tmp_path: Path, flags: str, how: Comparison) -> None:
    for name, text in zip("ab", _CHANGED, strict=True):
        (tmp_path / name).write_bytes(text)
    command = ["diff", *flags.split(), str(tmp_path / "a"), str(tmp_path / "b")]
    ran = subprocess.run(command, capture_output=True, check=False)
    found = list(unified_diff(*_CHANGED, (b"a", b"b"), how))[2:]
    changed = [line for line in found if line[:1] in b"-+"]
    assert changed == [line for line in ran.stdout.split(b"\n")[2:] if line[:1] and line[:1] in b"-+"]
    assert not equal_texts(*_CHANGED, how)


@pytest.mark.parametrize(
    ("before", "after", "how"),
    [
        (b"a b\n", b"ab\n", Comparison(space="all")),
        (b"a  b \n", b"a b", Comparison(space="amount")),
        (b"A\n", b"a\n", Comparison(ignore_case=True)),
        (b"a\n\n\nb\n", b"a\nb\n\n", Comparison(ignore_blank=True)),
        (b"a\r\n", b"a\n", Comparison(ignore_cr=True)),
    ],
)
def test_what_is_ignored(before: bytes, after: bytes, how: Comparison) -> None:
    assert equal_texts(before, after, how)
    assert list(unified_diff(before, after, (b"a", b"b"), how)) == []
    assert how.ignores
    assert not equal_texts(before, after + b"c\n", how)
    assert not equal_texts(before, after, Comparison())


def test_as_diff_does(tmp_path: Path) -> None:
    before = b"".join(b"line %d\n" % number for number in range(40))
    after = before.replace(b"line 7\n", b"").replace(b"line 30\n", b"thirty\nmore\n")
    (tmp_path / "a").write_bytes(before)
    (tmp_path / "b").write_bytes(after)
    ran = subprocess.run(["diff", "-u", tmp_path / "a", tmp_path / "b"], capture_output=True, check=False)
    assert _diff(before, after)[2:] == ran.stdout.splitlines()[2:]
