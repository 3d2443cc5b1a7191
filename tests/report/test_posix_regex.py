"""Regular expressions of POSIX, as Python's: each construct, and what is malformed. `tests/cli` compares with grep."""

import re

import pytest

from ocifs.report.posix_regex import to_python, with_posix_parts


@pytest.mark.parametrize(
    ("pattern", "extended", "matches", "others"),
    [
        (b"a|b", True, b"a b", b"c"),
        (b"a\\|b", False, b"a b", b"c"),
        (b"a|b", False, b"a|b", b"a"),
        (b"a+?", True, b"a aa", b""),
        (b"a**", True, b"a aa", b""),
        (b"(a|b){2}", True, b"ab", b"a"),
        (b"\\(a\\)\\1", False, b"aa", b"a"),
        (b"a{,1}", True, b"a", b"aa"),
        (b"a{x", True, b"a{x", b"a"),
        (b"[]a]", True, b"] a", b"b"),
        (b"[^]a]", True, b"b", b"a ]"),
        (b"[a-]", True, b"a -", b"b"),
        (b"[[:digit:]_]", True, b"1 _", b"a"),
        (b"[[.a.][=b=]]", True, b"a b", b"c"),
        (b"[\\n]", True, b"\\ n", b"a"),
        (b"*a", False, b"*a", b"a"),
        (b"*a", True, b"a", b"*a"),
        (b"^*", False, b"*", b"a"),
        (b"a^b$c", False, b"a^b$c", b"abc"),
        (b"\\<a\\>", False, b"a", b"ab"),
        (b"a)", True, b"a)", b"a"),
        (b"\\.\\*\\/", True, b".*/", b"a"),
        (b"\xff", True, b"\xff", b"a"),
    ],
)  # fmt: skip
def test_constructs(pattern: bytes, extended: bool, matches: bytes, others: bytes) -> None:
    regex = re.compile(to_python(pattern, extended=extended)[0], re.MULTILINE)
    assert all(regex.fullmatch(each) for each in matches.split(b" "))
    assert not any(regex.fullmatch(each) for each in others.split())


def test_groups_are_counted_from_an_offset() -> None:
    assert to_python(b"(a)(b)\\2", extended=True, groups=3) == (rb"(a)(b)(?:\5)", 2)


def test_anchors_of_a_whole_text() -> None:
    assert to_python(b"^a$", extended=True, whole=True)[0] == rb"\Aa\Z"


@pytest.mark.parametrize(
    "pattern", [b"(", b"a\\", b"[", b"[[:x:]]", b"[b-a]", b"a{2,1}", b"a{40000}", b"\\1", b"(\\1)"]
)
def test_malformed(pattern: bytes) -> None:
    with pytest.raises(re.error):
        to_python(pattern, extended=True)


def test_python_gets_the_classes_and_word_anchors() -> None:
    assert re.findall(with_posix_parts(rb"\<[[:alpha:]_]+\>"), b"a_b 1 c") == [b"a_b", b"c"]
    assert with_posix_parts(rb"\\<\d") == rb"\\<\d"
