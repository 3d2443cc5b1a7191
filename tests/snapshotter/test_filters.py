"""containerd's filters: those of its clients, the grammar, and arbitrary text."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.snapshotter.filters import Path, parse_filters
from ocifs.snapshotter.status import SnapshotError

_FIELDS = {
    ("name",): "k8s.io/7/sha256:abc",
    ("kind",): "committed",
    ("parent",): "",
    ("labels", "l"): "1",
    ("labels", "containerd.io/snapshot.ref"): "sha256:abc",
    ("labels", "a,b"): 'x"y',
    ("labels", "empty"): "",
}


def _field(path: Path) -> str | None:
    return _FIELDS.get(path)


_MATCHING = [
    "",
    "name",
    "kind==committed",
    "kind!=active",
    'labels."containerd.io/snapshot.ref"==sha256:abc,parent==""',
    'labels."containerd.io/snapshot.ref" == "sha256:abc",  kind==committed',
    "name==k8s.io/7/sha256:abc",
    "name==k8s.io/7/sha256:abc,kind==committed",
    "labels.l",
    'labels."a,b"=="x\\"y"',
    "labels.empty",
    "labels.none!=x",
    "labels.l!=2",
    "name~=^k8s",
    "name~=/sha256:[a-c]+$/",
    "name~=|k8s.io/7|",
    'name~="io.7"',
    "name~=/io\\/7/",
    "labels.none~=^$",
    'kind=="\\x63\\157\\u006dmitted"',
    "kind== committed",
]
_NOT_MATCHING = [
    "kind==active",
    "labels.none",
    "labels.none==x",
    'labels.none!=""',
    "labels.l==1,kind==active",
    "nothing",
    "name~=^sha256",
]
_MALFORMED = [
    ",",
    "name,",
    "==x",
    "name=x",
    "name=!x",
    "name===x",
    "name==",
    "labels.none==",
    "name ",
    "name==x y",
    "name==x ,kind",
    "name==/x/",
    'name=="x',
    'name=="\\q"',
    'name=="\\400"',
    'name=="\\UFFFFFFFF"',
    'name=="\\x4"',
    "name==.x",
    "name..x",
    "name.",
    'name=="x"y',
    "name~=(",
    "name~=/[/",
    "na\0me",
    "name==" + "x" * 70000,
    "-",
    "näme",
]


@pytest.mark.parametrize("text", _MATCHING)
def test_filter_matches(text: str) -> None:
    assert parse_filters([text])(_field)


@pytest.mark.parametrize("text", _NOT_MATCHING)
def test_filter_does_not_match(text: str) -> None:
    assert not parse_filters([text])(_field)


@pytest.mark.parametrize("text", _MALFORMED)
def test_malformed_filter_is_an_invalid_argument(text: str) -> None:
    with pytest.raises(SnapshotError) as caught:
        parse_filters([text])
    assert caught.value.status == "INVALID_ARGUMENT"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_several_filters_match_if_one_does() -> None:
    assert parse_filters(["kind==active", "labels.l==1"])(_field)
    assert not parse_filters(["kind==active", "labels.l==2"])(_field)
    assert parse_filters([])(_field)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@given(st.lists(st.text().filter(lambda text: "\0" not in text), min_size=1, max_size=4), st.text())
def test_quoted_fields_and_values_stand_for_themselves(path: list[str], value: str) -> None:
    if "\0" in value or any("\ud800" <= c < "\ue000" for c in value + "".join(path)):
        return
    matches = parse_filters([".".join(map(_quote, path)) + "==" + _quote(value)])
    assert matches(lambda asked: value if asked == (*path,) else None)
    assert not matches(lambda asked: value + "x")


@given(st.text(alphabet='abz019_.,"/|\\=!~ \n\0xuU{}[]()*+?^$é\ud800', max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(SnapshotError):
        assert parse_filters([text])(_field) in {True, False}
