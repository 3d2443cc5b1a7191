"""A service of its own for each test, in a runtime directory of its own."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.service.running import Service
from tests.tars import file, tar

FILES = 8
SIZE = 1 << 20


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose files take many spans."""
    members = [file(b"%02d" % number, content(number)) for number in range(FILES)]
    halves = (members[::2], members[1::2])
    layers = tuple(Layer(tar(half)) for half in halves)
    return write_layout(tmp_path_factory.mktemp("kept") / "image", Image(layers=layers))


@pytest.fixture(scope="session")
def cache(image: Path, session_ocifs: Ocifs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has the image."""
    made = tmp_path_factory.mktemp("indexed") / "cache"
    session_ocifs.output("index", "--cache-dir", made, image)
    return made


@pytest.fixture
def command(ocifs: Ocifs, cache: Path, root: None, erofs: None) -> Ocifs:
    """The command where no service runs yet."""
    return replace(ocifs, environment={"OCIFS_CACHE_DIR": str(cache), "OCIFS_NO_SERVICE": ""})


@pytest.fixture
def service(command: Ocifs, image: Path) -> Iterator[Service]:
    running = Service(command, image)
    running.start()
    try:
        yield running
    finally:
        running.end()
