"""A process that is given too little ends with the right output, or with one line that says what to raise."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.shortage import Pids, is_done, limited, pids_cgroup
from tests.tars import file, tar

_BIG = random.Random(1).randbytes(17 << 20)
"""So much that a process of its own inflates it."""
_VERBS = {"ls": ("ls",), "index": ("index",), "verify": ("verify",), "export": ("export", "--to-tar", "-")}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image that everybody may read."""
    layers = [Layer(tar([file(b"%d" % number, _BIG if number == 0 else b"small")])) for number in range(3)]
    made = tmp_path_factory.mktemp("shortage")
    for directory in (made, made.parent, made.parent.parent):
        directory.chmod(0o755)
    yield write_layout(made / "image", Image(tuple(layers)))
    for directory in (made, made.parent, made.parent.parent):
        directory.chmod(0o700)


@pytest.fixture
def pids(root: None) -> Iterator[Pids]:
    with pids_cgroup() as made:
        yield made


def check(ocifs: Ocifs, image: Path, verb: str) -> bool:
    """Whether it succeeded, which it must have done right; else it has failed well."""
    result = ocifs.run(*_VERBS[verb], image)
    if is_done(result) and verb == "ls":
        assert result.out == b"0\n1\n2\n"
    assert ocifs.leftovers() == []
    return result.code == 0


@pytest.mark.parametrize("verb", depth(["ls", "verify"], list(_VERBS)))
def test_processes_and_threads_in_a_cgroup(ocifs: Ocifs, image: Path, pids: Pids, verb: str) -> None:
    inside = pids.inside(ocifs)
    done = []
    for count in depth([1, 4, 30], [*range(1, 16), 30]):
        pids.allow(count)
        done.append(check(inside, image, verb))
    assert (done[0], done[-1]) == (False, True)


@pytest.mark.parametrize("count", depth([1, 5], [*range(1, 12)]))
def test_processes_and_threads_of_a_user(user: Ocifs, image: Path, count: int) -> None:
    for verb in depth(["ls"], list(_VERBS)):
        check(limited(user, "nproc", count), image, verb)


@pytest.mark.parametrize("mebibytes", depth([25, 60, 200, 1000], [*range(50, 500, 25), 600, 800, 1000, 1500]))
def test_memory(ocifs: Ocifs, image: Path, mebibytes: int) -> None:
    for verb in depth(["ls"], list(_VERBS)):
        assert check(limited(ocifs, "as", mebibytes << 20), image, verb) or mebibytes < 1000


@pytest.mark.parametrize("verb", depth(["export"], list(_VERBS)))
def test_open_files(ocifs: Ocifs, image: Path, verb: str) -> None:
    done = [check(limited(ocifs, "nofile", count), image, verb) for count in depth([6, 60], [*range(5, 40), 60])]
    assert (done[0], done[-1]) == (False, True)
