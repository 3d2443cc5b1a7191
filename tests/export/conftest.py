"""Images that these tests write out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from tests.mounted.posix_image import image


@pytest.fixture(scope="session")
def posix_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with one image, which has one of everything."""
    return image(tmp_path_factory.mktemp("posix"), wide=False)


@pytest.fixture(scope="session")
def posix(posix_layout: Path) -> Iterator[Rootfs]:
    with open_image(posix_layout) as opened:
        yield opened.rootfs
