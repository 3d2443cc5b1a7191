"""Which images use an entry of the cache."""

import json
from pathlib import Path

import pytest

from ocifs.image.names import forget_unused, names_by_subject, names_of
from ocifs.image.opening import open_image
from ocifs.options import Options
from ocifs.store import Store
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar

_BASE = Layer(tar([file(b"a", b"a")]))


def _write(directory: Path, name: str) -> str:
    return str(write_layout(directory / name, Image((_BASE, Layer(tar([file(name.encode(), b"x")]))))))


def _named(store: Store) -> dict[tuple[str, str], list[str]]:
    known = names_by_subject(store)
    return {(entry.kind, entry.subject): names_of(entry.subject, known) for entry in store.entries()}


def test_entries_have_the_names_of_all_their_images(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    one, other = _write(tmp_path, "one"), _write(tmp_path, "other")
    for reference in (one, f"{one}:latest", other):
        with open_image(reference, Options(store=store)) as image:
            image.changes(0)
    found = _named(store)
    assert sorted((kind, names) for (kind, _), names in found.items()) == [
        ("changes3", sorted([one, f"{one}:latest", other])),
        ("layer2", sorted([one, f"{one}:latest"])),
        ("layer2", sorted([one, f"{one}:latest", other])),
        ("layer2", [other]),
        ("tree4", sorted([one, f"{one}:latest"])),
        ("tree4", [other]),
    ]


def test_names_are_absolute_and_the_latest_eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = _write(tmp_path, "one")
    store = Store(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    with open_image("./one:latest", Options(store=store)):
        pass
    assert {name for names in _named(store).values() for name in names} == {f"{image}:latest"}
    for number in range(10):
        (tmp_path / f"link{number}").symlink_to("one")
        with open_image(f"oci:link{number}", Options(store=store)):
            pass
    names = {name for names in _named(store).values() for name in names}
    assert names == {f"oci:{tmp_path}/link{number}" for number in range(2, 10)}


def test_a_known_name_writes_nothing(tmp_path: Path) -> None:
    image = _write(tmp_path, "one")
    store = Store(tmp_path / "cache")
    before: list[int] = []
    after: list[int] = []
    for seen in (before, after):
        with open_image(image, Options(store=store)):
            seen += [path.stat().st_ino for path in (tmp_path / "cache/images").iterdir()]
    assert before == after


def test_damaged_records_and_those_of_evicted_entries(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    for name in ("one", "other"):
        with open_image(_write(tmp_path, name), Options(store=store)):
            pass
    (damaged, whole) = sorted((tmp_path / "cache/images").iterdir())
    damaged.write_bytes(b"\0")
    kept = json.loads(whole.read_bytes())["names"]
    assert {tuple(names) for names in _named(store).values()} == {(), tuple(kept)}
    forget_unused(store)
    assert [path.name for path in (tmp_path / "cache/images").iterdir()] == [whole.name]
    store.prune(0)
    forget_unused(store)
    assert list((tmp_path / "cache/images").iterdir()) == []


def test_a_cache_in_memory_or_of_others_is_no_error(tmp_path: Path) -> None:
    image = _write(tmp_path, "one")
    with open_image(image, Options(store=Store(None))):
        pass
    store = Store(tmp_path / "cache")
    (tmp_path / "cache/images").write_text("in the way")
    with open_image(image, Options(store=store)):
        pass
    assert names_by_subject(store) == {}
