"""Searching files: the lines that match, file after file in the order of the layers."""

import json
import re
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import NotFoundError
from ocifs.image.opening import Image, open_image
from ocifs.report import selected_lines as module
from ocifs.report.grep import FileNames, grep, to_json
from ocifs.report.pattern import Matching, Pattern
from ocifs.report.selected_lines import Context, FoundLine, Match, Selection, select_lines
from tests import images
from tests.tars import directory, file, hardlink, pax, symlink, tar

_SPARSE = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"sparse"}
_LONG = b"x" * 3_000_000
LAYERS = [
    [
        directory(b"etc"),
        file(b"etc/z.conf", b"one\ntwo words\n\nlast one"),
        file(b"etc/a.conf", b"ONE\r\n"),
        hardlink(b"etc/linked", b"etc/z.conf"),
        symlink(b"link", b"etc/a.conf"),
        file(b"binary", b"one\0two\none\n"),
        file(b"late", bytes(0) + b"a\n" * 30_000 + b"\0one\n"),
        file(b"no\xffname\n", b"one"),
        file(b"empty"),
        file(b"long", _LONG + b"one\nanother one\n" + _LONG),
        pax({**_SPARSE, b"GNU.sparse.realsize": b"%d" % (1 << 40)})
        + file(b"x", b"1\n1099511623680\n4096\n".ljust(512, b"\0") + b"one\n".ljust(4096, b".")),
    ],
    [file(b"etc/upper", b"none\n")],
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    layers = tuple(images.Layer(tar(members)) for members in LAYERS)
    with open_image(images.write_layout(tmp_path_factory.mktemp("grep") / "layout", images.Image(layers))) as opened:
        yield opened


def _found(image: Image, pattern: Pattern, *paths: bytes, include: Sequence[str] = ()) -> dict[bytes, list[FoundLine]]:
    searched = grep(image.rootfs, paths or (b"/",), pattern, FileNames(include))
    return {each.path: matches for each in searched if (matches := list(each.matches))}


def test_lines_of_all_files_in_the_order_of_the_layers(image: Image) -> None:
    found = _found(image, Pattern(b"one"))
    ordered = b"/etc/linked /etc/z.conf /binary /late /no\xffname\n /long /etc/upper"
    # What lies in the tree image alone comes first.
    assert list(found) == [b"/sparse", *ordered.split(b" ")]
    assert found[b"/etc/z.conf"] == [Match(1, b"one"), Match(4, b"last one")]
    assert found[b"/etc/linked"] == found[b"/etc/z.conf"]
    assert found[b"/binary"] == [Match(1, b"one\0two"), Match(2, b"one")]
    assert found[b"/late"] == [Match(30_001, b"\0one")]
    assert [(number, len(line)) for number, line in found[b"/long"]] == [(1, len(_LONG) % (1 << 20) + 3), (2, 11)]


def test_below_paths_by_names_and_through_symlinks(image: Image) -> None:
    pattern = Pattern(b"one", Matching(ignore_case=True))
    assert list(_found(image, pattern, b"link")) == [b"link"]
    below = {b"etc/z.conf", b"etc/linked", b"etc/a.conf", b"etc/upper"}
    assert set(_found(image, pattern, b"etc/", b"/etc/upper")) == {*below, b"/etc/upper"}
    assert sorted(_found(image, pattern, include=["*.conf", "lo??"])) == [b"/etc/a.conf", b"/etc/z.conf", b"/long"]
    assert list(_found(image, pattern, b"binary", include=["*.conf"])) == [b"binary"]
    with pytest.raises(NotFoundError):
        _found(image, pattern, b"missing")


def test_what_is_binary(image: Image) -> None:
    binary = {each.path for each in grep(image.rootfs, (b"/",), Pattern(b"x")) if each.binary}
    assert binary == {b"/binary", b"/sparse"}  # a NUL that comes late is not looked for


@pytest.mark.parametrize(
    ("pattern", "how", "lines"),
    [
        (b"o.e", Matching(), [1, 2, 3]),
        (b"o.e", Matching("fixed"), [3]),
        (b"ONE", Matching(ignore_case=True), [1, 2]),
        (b"one", Matching(words=True), [1]),
        (b"on|ones", Matching(words=True), [2]),
        (b"one\nx$", Matching(), [1, 2, 5]),
        (b"o.e\n^x", Matching("fixed"), [3]),
        (b"^$", Matching(), [4]),
        (b"", Matching(), [1, 2, 3, 4, 5, 6]),
        (rb"\Aone\Z", Matching(), [1]),
        (rb"s(?=\Z)", Matching(), [2]),
        (rb"n[^y]*+$", Matching(), [1, 2]),
        (rb"\s", Matching(), [6]),
        (rb"(?i)Y", Matching(), [6]),
        (b"\xff", Matching(), [6]),
    ],
)
def test_patterns(pattern: bytes, how: Matching, lines: list[int]) -> None:
    text = b"one\nones\no.e\n\nx\nz \xffY\n"
    assert [found.number for found in select_lines(Pattern(pattern, how), text, [])] == lines


@pytest.mark.parametrize("pattern", [b"(", b"*", b"[", b"a{2,1}"])
def test_what_is_no_pattern(pattern: bytes) -> None:
    with pytest.raises(re.error):
        Pattern(pattern)
    Pattern(pattern, Matching("fixed"))


_PIECES = rb"a b . ^ $ | a* [^a] [^a]* \s \b \B \n (?:b) a? \A \Z (?!a) (?<=b) b*+ [^b]*+".split()


@given(
    st.lists(st.sampled_from(_PIECES), max_size=4).map(b"".join),
    st.lists(st.sampled_from([b"a", b"b", b"\n", b"ab\n", b" "]), max_size=12).map(b"".join),
)
def test_as_line_by_line(pattern: bytes, text: bytes) -> None:
    try:
        regex = re.compile(pattern, re.MULTILINE)
    except re.error:
        return
    lines = text.split(b"\n")
    lines = lines[:-1] if lines[-1] == b"" else lines
    expected = [Match(number, line) for number, line in enumerate(lines, 1) if regex.search(line)]
    assert list(select_lines(Pattern(pattern), text, [])) == expected


def test_long_lines_are_searched_in_pieces() -> None:
    for size in (module.MAX_LINE - 1, module.MAX_LINE, module.MAX_LINE + 1, 2 * module.MAX_LINE):
        text = b"a\n" + b"x" * size + b"\n\nb"
        pieces = [min(module.MAX_LINE, size - at) for at in range(0, size, module.MAX_LINE)]
        for cut in (1, 2, 3, 1000, module.MAX_LINE, size + 2, size + 3):
            found = list(select_lines(Pattern(b"^"), text[:cut], [text[cut:]]))
            assert [(n, len(line)) for n, line in found] == [
                (1, 1),
                *((2, length) for length in pieces),
                (3, 0),
                (4, 1),
            ]


@given(st.lists(st.binary(max_size=12), max_size=12))
def test_a_file_in_parts_is_the_file(parts: list[bytes]) -> None:
    text = b"".join(parts)
    lines = text.split(b"\n")
    expected = [Match(n, line) for n, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, 1) if b"a" in line]
    assert list(select_lines(Pattern(b"a"), b"", parts)) == expected


def _naive(lines: list[bytes], how: Selection) -> list[Match | Context]:
    """Return what is selected of lines that match if they contain `a`."""
    chosen = [number for number, line in enumerate(lines) if (b"a" in line) is not how.invert][: how.most]
    near = {number for each in chosen for number in range(each - how.before, each + how.after + 1)}
    # The lines behind the last selected one are its context, even if they would be selected.
    kinds = {number: Match if number in chosen else Context for number in near if 0 <= number < len(lines)}
    return [kinds[number](number + 1, lines[number]) for number in sorted(kinds)]


@given(
    st.lists(st.sampled_from([b"a", b"b", b"", b"ab"]), max_size=14),
    st.builds(Selection, st.booleans(), st.integers(0, 3), st.integers(0, 3), st.one_of(st.none(), st.integers(0, 3))),
    st.integers(1, 9),
)
def test_selected_lines_and_their_context(lines: list[bytes], how: Selection, size: int) -> None:
    text = b"".join(line + b"\n" for line in lines)
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(select_lines(Pattern(b"a"), b"", parts, how)) == _naive(lines, how)


def test_context_is_bounded() -> None:
    """Lines before a match that are 40 MiB long do not all stay in memory."""
    line = b"b" * (module.MAX_LINE - 1) + b"\n"
    found = list(select_lines(Pattern(b"a"), b"", [*[line] * 40, b"a\n"], Selection(before=40)))
    assert [each.number for each in found] == [*range(25, 41), 41]


def test_directories_can_be_left_out(image: Image) -> None:
    searched = grep(
        image.rootfs, (b"/",), Pattern(b"one"), FileNames(exclude=["bi*", "sparse"], exclude_directories=["e?c"])
    )
    assert not {each.path for each in searched} & {b"/binary", b"/etc/z.conf"}
    searched = grep(image.rootfs, (b"etc",), Pattern(b"one"), FileNames(exclude_directories=["etc"]))
    assert b"etc/z.conf" in {each.path for each in searched}


def test_progress_ends_with_all_bytes(image: Image) -> None:
    told: list[tuple[int, int]] = []
    for _ in grep(image.rootfs, (b"/long", b"/etc"), Pattern(b"x"), progress=lambda *how_far: told.append(how_far)):
        pass
    assert told[-1][0] == told[-1][1] > 6_000_000
    assert told == sorted(told)


def test_json() -> None:
    assert json.loads(to_json(b"/a", Match(3, b"\xff"))) == {
        "path": "/a", "line_number": 3, "line": "\\xff", "line_base64": "/w=="
    }  # fmt: skip
    assert json.loads(to_json(b"/a", count=2)) == {"path": "/a", "count": 2}
