"""Every test here mounts, and does so with both engines; but those of an ordinary user, who has but one."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.mounted.posix_image import image
from tests.tars import directory, file, tar


@pytest.fixture(autouse=True, scope="session")
def _fuse(fuse: None) -> None:
    """Skip all where nothing can be mounted."""


@pytest.fixture
def ocifs(ocifs: Ocifs, engine: str) -> Ocifs:
    return replace(ocifs, environment={"OCIFS_ENGINE": engine})


@pytest.fixture(scope="session")
def posix_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image(tmp_path_factory.mktemp("posix"))


@pytest.fixture(scope="session")
def posix(session_ocifs: Ocifs, posix_image: Path, engine: str) -> Iterator[bytes]:
    """Where the image with one of everything is mounted, for all tests that only look."""
    with session_ocifs.mounted(posix_image, "--engine", engine) as mountpoint:
        yield bytes(mountpoint)


@pytest.fixture(scope="module")
def indexed(image: Path, session_ocifs: Ocifs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the index of the module's `image`."""
    cache = tmp_path_factory.mktemp("indexed") / "cache"
    session_ocifs.output("index", "--cache-dir", cache, image)
    return cache


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An image that others may read: a file, a directory, and one of 3 MiB that does not compress."""
    members = [
        directory(b"./", mode=0o755),
        file(b"hello", b"hello\n"),
        directory(b"dir/"),
        file(b"dir/big", random.Random(2).randbytes(3 << 20)),
    ]
    return write_layout(tmp_path / "small", Image(layers=(Layer(tar(members)),)))
