"""Mounts of an image whose published index arrives in parts."""

import json
import os

import pytest

from tests.cli.command import Ocifs
from tests.images import digest
from tests.indexes.windowed import BASE, DATA, files, index, publish, ranges
from tests.mounted.test_registry import can_mark, state
from tests.registry import Registry, status, wrong_bytes
from tests.waiting import wait_for


@pytest.fixture
def image(registry: Registry) -> str:
    return registry.add("app", files())


def kinds(ocifs: Ocifs) -> dict[str, int]:
    """How many entries of each kind the cache has."""
    found: dict[str, int] = {}
    for each in json.loads(ocifs.output("cache", "ls", "--json")):
        found[each["kind"]] = found.get(each["kind"], 0) + 1
    return found


def test_windows_are_fetched_with_the_spans_that_need_them(
    ocifs: Ocifs, registry: Registry, image: str, engine: str
) -> None:
    published = publish(registry)
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch", "--hot-pack", "0") as mnt:
        (tail,) = ranges(registry, published)
        assert tail is not None
        assert tail[0] == index().data_size
        with (mnt / "data").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            assert os.pread(file.fileno(), 4096, 5 << 20) == DATA[5 << 20 : (5 << 20) + 4096]
        assert len(ranges(registry, published)) == 2
        assert (mnt / "data").read_bytes() == DATA
        assert state(ocifs)["layers"][0]["verified_at"] is None  # type: ignore[index]


def test_the_background_fetches_all_windows_before_it_verifies_the_index(
    ocifs: Ocifs, registry: Registry, image: str, engine: str
) -> None:
    published = publish(registry)
    with ocifs.mounted(image, "--engine", engine) as mnt:
        wait_for(lambda: state(ocifs)["layers"][0]["verified_at"] is not None)  # type: ignore[index]
        registry.fault(status(404), "")
        assert (mnt / "data").read_bytes() == DATA
    registry.faults.clear()
    registry.requests.clear()
    ocifs.output("ls", image)
    assert ranges(registry, published) == []
    if not can_mark(ocifs):
        pytest.skip("no extended attributes here")
    assert kinds(ocifs)["layer2"] == 1


def test_windows_that_differ_from_their_digests_refute_the_mount(
    ocifs: Ocifs, registry: Registry, image: str, engine: str
) -> None:
    published = publish(registry)
    with ocifs.mounted(image, "--engine", engine, "--no-prefetch"):
        pass
    registry.fault(wrong_bytes, published)
    with ocifs.mounted(image, "--engine", engine):
        wait_for(lambda: state(ocifs)["refuted"] is not None)
        refuted = str(state(ocifs)["refuted"])
    assert f"the index of layer {digest(BASE.blob)}: the registry returns other bytes" in refuted
