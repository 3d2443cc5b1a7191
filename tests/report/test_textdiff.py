"""Texts as unified diffs."""

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.report.textdiff import is_text, unified_diff


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


def test_as_diff_does(tmp_path: Path) -> None:
    before = b"".join(b"line %d\n" % number for number in range(40))
    after = before.replace(b"line 7\n", b"").replace(b"line 30\n", b"thirty\nmore\n")
    (tmp_path / "a").write_bytes(before)
    (tmp_path / "b").write_bytes(after)
    ran = subprocess.run(["diff", "-u", tmp_path / "a", tmp_path / "b"], capture_output=True, check=False)
    assert _diff(before, after)[2:] == ran.stdout.splitlines()[2:]
