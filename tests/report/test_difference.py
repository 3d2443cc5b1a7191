"""How two trees differ, told without reading what need not be read."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocifs.image.contents import digests
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from ocifs.report import difference
from ocifs.report.difference import Aspect, Difference, differences
from ocifs.report.difference_text import add_up, difference_line, to_json, totals_lines
from ocifs.report.listing import unpainted
from tests import images
from tests.tars import directory, file, hardlink, header, pax, symlink, tar

BEFORE = [
    directory(b"./"),
    directory(b"gone"),
    file(b"gone/file", b"12"),
    file(b"kept", b"same", mtime=7),
    file(b"copied", b"equal bytes"),
    file(b"bytes", b"aaaa"),
    file(b"size", b"a"),
    file(b"mode", b"m", mode=0o644),
    file(b"owner", b"o", uid=1, gid=2),
    file(b"mtime", b"t", mtime=1),
    file(b"type", b"x"),
    directory(b"turned"),
    file(b"turned/below", b"x"),
    symlink(b"target", b"a"),
    header(b"rdev", flag=b"3", major=1, minor=3),
    pax({b"SCHILY.xattr.user.a": b"1", b"SCHILY.xattr.user.same": b"s"}) + file(b"xattr", b"x"),
]
AFTER = [
    directory(b"./"),
    file(b"kept", b"same", mtime=7),
    file(b"copied", b"equal bytes"),
    file(b"bytes", b"bbbb"),
    file(b"size", b"four"),
    file(b"mode", b"m", mode=0o4755),
    file(b"owner", b"o", uid=1, gid=3),
    file(b"mtime", b"t", mtime=61),
    symlink(b"type", b"x"),
    file(b"turned", b"now a file"),
    symlink(b"target", b"b"),
    header(b"rdev", flag=b"3", major=1, minor=5),
    pax({b"SCHILY.xattr.user.b": b"1", b"SCHILY.xattr.user.same": b"s"}) + file(b"xattr", b"x"),
    directory(b"new"),
    file(b"new/file", b"123"),
    hardlink(b"new/link", b"new/file"),
    file(b"new/\x1b[2J", b""),
]


def _trees(stack: ExitStack, where: Path, *layers: Iterable[bytes]) -> list[Rootfs]:
    found = []
    for number, members in enumerate(layers):
        layout = images.write_layout(where / str(number), images.Image((images.Layer(tar(members)),)))
        found.append(stack.enter_context(open_image(layout)).rootfs)
    return found


def _compare(before: Rootfs, after: Rootfs, *ignored: Aspect) -> list[Difference]:
    return list(differences(before, after, (before.root, after.root), b"/", ignored))


def _told(found: Iterable[Difference]) -> list[str]:
    return [difference_line(each, lambda name: name, unpainted).decode() for each in found]


EXPECTED = [
    "changed  /bytes  (content)",
    "removed  /gone",
    "removed  /gone/file",
    "changed  /mode  (mode 0644 -> 4755)",
    "changed  /mtime  (mtime 1970-01-01 00:00:01 -> 1970-01-01 00:01:01)",
    "added    /new",
    "added    /new/\x1b[2J",
    "added    /new/file",
    "added    /new/link",
    "changed  /owner  (owner 1:2 -> 1:3)",
    "changed  /rdev  (rdev 1,3 -> 1,5)",
    "changed  /size  (size 1 -> 4, content)",
    "changed  /target  (target a -> b)",
    "changed  /turned  (type directory -> regular, mode 0755 -> 0644)",
    "removed  /turned/below",
    "changed  /type  (type regular -> symlink, mode 0644 -> 0777)",
    "changed  /xattr  (xattr user.a user.b)",
]


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    import time

    time.tzset()


def test_every_kind_of_difference(tmp_path: Path) -> None:
    with ExitStack() as stack:
        before, after = _trees(stack, tmp_path, BEFORE, AFTER)
        assert _told(_compare(before, after)) == EXPECTED
        assert _compare(before, before) == []
        mirrored = [each.change for each in _compare(after, before)]
        assert [mirrored.count(change) for change in ("added", "removed", "changed")] == [3, 4, 10]


def test_ignored_aspects(tmp_path: Path) -> None:
    with ExitStack() as stack:
        before, after = _trees(stack, tmp_path, BEFORE, AFTER)
        told = _told(_compare(before, after, "content", "mode", "mtime", "owner", "xattr", "type", "target", "rdev"))
        assert [line for line in told if line.startswith("changed")] == ["changed  /size  (size 1 -> 4)"]


def test_only_what_must_be_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counting(rootfs: Rootfs, nids: Iterable[int], *rest: object) -> dict[int, bytes]:
        wanted = list(nids)
        asked.append(len(wanted))
        return digests(rootfs, wanted)

    monkeypatch.setattr(difference, "digests", counting)
    upper = images.Layer(tar([file(b"kept", b"other", mtime=7), file(b"later", b"")]))
    base = images.Layer(tar(BEFORE))
    with ExitStack() as stack:
        before, after = _trees(stack, tmp_path, BEFORE, AFTER)
        _compare(before, after)
        assert asked == [7, 7]  # kept, copied, bytes, mode, owner, mtime, xattr
        # The same layer, compressed in another way, below another one: the diff ID tells.
        layout = images.write_layout(tmp_path / "two", images.Image((images.Layer(base.tar, "zstd"), upper)))
        two = stack.enter_context(open_image(layout)).rootfs
        del asked[:]
        assert _told(_compare(before, two)) == ["changed  /kept  (size 4 -> 5, content)", "added    /later"]
        assert asked == [0, 0]


def test_progress_tells_how_much_is_to_be_read(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with ExitStack() as stack:
        before, after = _trees(stack, tmp_path, [file(b"a", b"12345")], [file(b"b", b""), file(b"a", b"12346")])
        starts = (before.root, after.root)
        found = list(differences(before, after, starts, b"/", done=lambda *numbers: told.append(numbers)))
    assert [each.path for each in found] == [b"/a", b"/b"]
    assert told == [(5, 10), (10, 10)]


def test_below_a_path_and_what_only_one_has(tmp_path: Path) -> None:
    with ExitStack() as stack:
        before, after = _trees(stack, tmp_path, BEFORE, AFTER)
        new = after.lookup("new")
        found = list(differences(before, after, (None, new), b"/new"))
        assert [(each.change, each.path) for each in found][:2] == [("added", b"/new"), ("added", b"/new/\x1b[2J")]


def test_totals(tmp_path: Path) -> None:
    with ExitStack() as stack:
        before, after = _trees(stack, tmp_path, BEFORE, AFTER)
        totals = add_up(_compare(before, after))
        lines = [line.decode().split() for line in totals_lines(totals, lambda name: name)]
    assert lines[0] == ["added", "removed", "changed", "directory"]
    assert lines[1:] == [
        ["0", "0", "B", "0", "0", "B", "10", "+12", "B", "/"],
        ["0", "0", "B", "2", "-2", "B", "0", "0", "B", "/gone"],
        ["4", "+3", "B", "0", "0", "B", "0", "0", "B", "/new"],  # the hard link has no bytes of its own
        ["0", "0", "B", "1", "-1", "B", "0", "0", "B", "/turned"],
        ["4", "+3", "B", "3", "-3", "B", "10", "+12", "B", "total"],
    ]


def test_json(tmp_path: Path) -> None:
    with ExitStack() as stack:
        before, after = _trees(stack, tmp_path, [file(b"n\xff", b"a")], [file(b"n\xff", b"a", mode=0o600)])
        (line,) = map(to_json, _compare(before, after))
    assert line.startswith(b'{"path":"/n\\\\xff","path_base64":"L27/","change":"changed","aspects":["mode"],"before":{')
    assert b'"after":{"type":"regular","mode":"0600"' in line


_NAMES = st.sampled_from([b"a", b"b", b"d/a", b"d/b", b"d/e/a"])
_FILES = st.dictionaries(
    _NAMES, st.tuples(st.sampled_from([b"", b"x", b"y", b"xx"]), st.sampled_from([0o600, 0o644]), st.integers(0, 1))
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_FILES, _FILES)
def test_as_two_dicts_differ(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[bytes, tuple[bytes, int, int]],
    second: dict[bytes, tuple[bytes, int, int]],
) -> None:
    members = [
        [file(name, data, mode=mode, uid=uid) for name, (data, mode, uid) in files.items()] for files in (first, second)
    ]
    expected: dict[bytes, tuple[str, tuple[str, ...]]] = {}
    for name in first.keys() | second.keys():
        a, b = first.get(name), second.get(name)
        if a is None or b is None:
            expected[b"/" + name] = ("removed" if b is None else "added", ())
        elif a != b:
            sized = len(a[0]) != len(b[0])
            told = [("mode", a[1] != b[1]), ("owner", a[2] != b[2]), ("size", sized), ("content", a[0] != b[0])]
            expected[b"/" + name] = ("changed", tuple(aspect for aspect, differs in told if differs))
    with ExitStack() as stack:
        before, after = _trees(stack, tmp_path_factory.mktemp("trees"), *members)
        found = {
            each.path: (each.change, each.aspects)
            for each in _compare(before, after)
            if each.path not in {b"/d", b"/d/e"}
        }
    assert found == expected
