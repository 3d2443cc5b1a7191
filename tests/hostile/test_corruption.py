"""Every byte of every file of a tiny image changed, and every cut: the same tree, or one clean error.

The judge is `tests.hostile.tiny.outcome`. That it would notice wrong bytes is proven at the end: with the check of span
digests off, they get through, and it says so.
"""

import random
import re
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from ocifs.image.kinds import CHANGES, TREE
from ocifs.image.opening import open_image
from ocifs.layer.index_format import KIND
from ocifs.options import Options
from ocifs.store import Store
from tests.cli.command import Ocifs
from tests.depth import FULL, depth
from tests.hostile.tiny import LAYERS, Outcome, Seen, bits, cuts, flips, look, outcome, outcomes, see, tiny_files
from tests.images import Image, docker_files, write_archive, write_directory

_FILES = tiny_files()
_PATHS = list(_FILES)
_LAYER_PATHS = {str(layer.compression): path for layer in LAYERS for path, data in _FILES.items() if data == layer.blob}
_DAMAGE: dict[str, Callable[[bytes], Iterator[bytes]]] = {"flips": flips, "cuts": cuts}
if FULL:
    _DAMAGE["bits"] = bits


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "image", _FILES)


@pytest.fixture
def expected(image: Path) -> Seen:
    seen = see(image)
    assert set(seen[0]) == {b"", b"c", b"d", b"d/a", b"d/b", b"h", b"s"}
    assert all(seen[1].values())
    return seen


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Work in memory: thousands of syncs to a disk would take long."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.mark.parametrize("damage", _DAMAGE)
@pytest.mark.parametrize("path", _PATHS, ids=[path[-8:] for path in _PATHS])
def test_a_layout(image: Path, expected: Seen, path: str, damage: str) -> None:
    counted = outcomes(image / path, _DAMAGE[damage](_FILES[path]), lambda: outcome(image, expected))
    assert counted.total() == len(_FILES[path]) * (8 if damage == "bits" else 1)
    assert not counted["wrong"]
    if path.startswith("blobs/"):  # no byte of a blob is there in vain: its digest is of all
        assert not counted["same"]
    assert see(image) == expected


@pytest.mark.parametrize("path", ["oci-layout", "index.json"])
def test_a_document_without_a_digest_may_lose_unused_bytes(image: Path, expected: Seen, path: str) -> None:
    """So the judge has seen both."""
    counted = outcomes(image / path, flips(_FILES[path]), lambda: outcome(image, expected))
    assert counted["refused"]
    if path == "index.json":  # the tag
        assert counted["same"]


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("damage", _DAMAGE)
def test_an_archive(tmp_path: Path, kind: str, damage: str) -> None:
    files = _FILES if kind == "oci-archive" else docker_files((Image(LAYERS), ["tiny:latest"]))
    path = write_archive(tmp_path / "image.tar", files)
    expected = see(path)
    data = path.read_bytes()
    every = list(range(len(data) * (8 if damage == "bits" else 1)))
    chosen = set(every if FULL else random.Random(damage).sample(every, 250))
    damaged = (each for place, each in enumerate(_DAMAGE[damage](data)) if place in chosen)
    counted = outcomes(path, damaged, lambda: outcome(path, expected))
    assert counted.total() == len(chosen)
    assert not counted["wrong"]
    assert counted["refused"]
    assert see(path) == expected


def indexed(image: Path, place: Path) -> Store:
    store = Store(place)
    see(image, store)
    return store


@pytest.mark.parametrize("damage", _DAMAGE)
@pytest.mark.parametrize("compression", _LAYER_PATHS)
def test_a_blob_that_is_indexed(image: Path, expected: Seen, tmp_path: Path, compression: str, damage: str) -> None:
    """The blob is not hashed again: only the digests of its spans protect the reader."""
    store = indexed(image, tmp_path / "cache")
    path = _LAYER_PATHS[compression]
    counted = outcomes(image / path, _DAMAGE[damage](_FILES[path]), lambda: outcome(image, expected, store))
    assert not counted["wrong"]
    assert counted["refused"] > 0.8 * counted.total()  # all but the header and trailer of gzip


def judge_blobs(image: Path, expected: Seen, store: Store) -> dict[str, Outcome]:
    """Return the worst that comes of some flips in the blob of each compression."""
    worst: dict[str, Outcome] = {}
    for compression, path in _LAYER_PATHS.items():
        some = islice(flips(_FILES[path]), 0, None, 5)
        counted = outcomes(image / path, some, lambda: outcome(image, expected, store))
        worst[compression] = "wrong" if counted["wrong"] else "refused"
    return worst


def test_without_span_digests_wrong_bytes_get_through_and_are_noticed(
    image: Path, expected: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the tests above do fail where the check is missing."""
    store = indexed(image, tmp_path / "cache")
    monkeypatch.setattr("ocifs.layer.index.hashlib", _Believing)
    assert judge_blobs(image, expected, store) == {"gzip": "wrong", "zstd": "wrong", "tar": "wrong"}


class _Believing:
    """In place of hashlib: a digest is whatever was expected."""

    @classmethod
    def sha256(cls, data: bytes) -> "_Believing":
        return cls()

    def digest(self) -> "_Believing":
        return self

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


_KINDS = {kind.name: kind for kind in (KIND, TREE, CHANGES)}


def changes(image: Path, store: Store) -> Seen:
    """Return what the last layer changes."""
    with open_image(image, Options(store=store, changes_only=True)) as opened:
        return look(opened.rootfs)


@pytest.mark.parametrize("damage", _DAMAGE)
@pytest.mark.parametrize("kind", _KINDS)
def test_the_store(image: Path, expected: Seen, tmp_path: Path, kind: str, damage: str) -> None:
    """What is damaged there is not believed; it is made again, and is what it was."""
    store = indexed(image, tmp_path / "cache")
    changed = changes(image, store)
    paths = list((tmp_path / "cache/entries").glob(f"{kind}[0-9]-*"))
    assert len(paths) == (3 if kind == "layer" else 1)
    for path in paths:
        whole = path.read_bytes()

        def judge(path: Path = path, whole: bytes = whole) -> Outcome:
            seen = changes(image, store) == changed if kind == "changes" else see(image, store) == expected
            return "same" if seen and path.read_bytes() == whole else "wrong"

        def believed(subject: str = path.name.partition("-")[2].replace("-", ":")) -> Outcome:
            return "refused" if store.load(_KINDS[kind], subject) is None else "wrong"

        assert believed() == "wrong"
        damaged = list(_DAMAGE[damage](whole))
        assert outcomes(path, iter(damaged), believed) == {"refused": len(damaged)}
        some = damaged[:: depth(1 + len(whole) // 150, 1)]
        assert outcomes(path, iter(some), judge) == {"same": len(some)}


# What the command line makes of a few of all these.
_COMMANDS = (["ls", "-lR", "IMAGE"], ["cat", "IMAGE", "d/a", "d/b", "c"], ["verify", "IMAGE"], ["inspect", "IMAGE"])
_CODES = {0, 1, 3, 4, 5, 6}


@pytest.mark.parametrize("command", _COMMANDS, ids=[command[0] for command in _COMMANDS])
def test_the_command_line(ocifs: Ocifs, tmp_path: Path, command: list[str]) -> None:
    image = write_directory(tmp_path / "image", _FILES)
    arguments = [str(image) if word == "IMAGE" else word for word in command]
    well = _timeless(ocifs.output(*arguments))
    entries = list(ocifs.cache.glob("entries/*"))
    chance = random.Random(command[0])
    for turn in range(depth(8, 500)):
        path = chance.choice(entries if turn % 4 == 0 and entries else [image / path for path in _PATHS])
        whole = path.read_bytes()
        place = chance.randrange(len(whole))
        cut = chance.random() < 0.3
        path.write_bytes(whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        result = ocifs.run(*arguments)
        path.write_bytes(whole)
        assert result.code in _CODES
        if command[0] == "verify" and result.err == "":  # tells its findings on standard output
            assert result.text
        elif result.code:
            assert result.err.startswith("ocifs: ")
            assert result.err.count("\n") == 1
            assert well.startswith(result.text)
        else:
            assert (_timeless(result.text), result.err) == (well, "")
    assert _timeless(ocifs.output(*arguments)) == well


def _timeless(text: str) -> str:
    """Take out when something was verified or indexed."""
    return re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", "", text)
