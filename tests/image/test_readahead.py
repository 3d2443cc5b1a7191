"""What is read ahead is what is read, in the order asked for, and no more than a few spans of it are held."""

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ocifs.compression import Decoder
from ocifs.errors import InvalidImageError
from ocifs.image.opening import open_image
from ocifs.image.readahead import read_ahead
from ocifs.image.rootfs import Rootfs
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar

_SIZE = 5 << 20


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = [Layer(tar([file(b"f%d" % number, random.Random(number).randbytes(_SIZE))])) for number in range(2)]
    return write_layout(tmp_path_factory.mktemp("ahead") / "image", Image(layers=tuple(layers)))


@pytest.fixture
def rootfs(layout: Path) -> Iterator[Rootfs]:
    with open_image(layout) as image:
        yield image.rootfs


def extents(rootfs: Rootfs, seed: int) -> list[tuple[int, int]]:
    """Return extents of the layers and the tree image, small and large, in any order."""
    random_ = random.Random(seed)
    found = []
    for _ in range(60):
        base, length = random_.choice([*zip(rootfs.tree.bases, [_SIZE, _SIZE], strict=True), (0, rootfs.tree.size)])
        start = random_.randrange(length)
        found.append((base + start, random_.choice([1, 700, 3 << 20, 0]) % (length - start + 1)))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_any_order(rootfs: Rootfs, seed: int) -> None:
    wanted = extents(rootfs, seed)
    parts = read_ahead(rootfs.served, wanted)
    for address, size in wanted:
        data = b""
        while len(data) < size:
            data += next(parts)
        assert data == rootfs.served.pread(size, address)
    assert list(parts) == []


def test_only_a_few_spans_are_asked_for_ahead(rootfs: Rootfs) -> None:
    layer = rootfs.served.layers[0]
    base = rootfs.tree.bases[0]
    spans = [(base + start, end - start) for start, end in pairwise(layer.index.starts)]
    assert len(spans) > 4
    asked = 0

    def ask() -> Iterator[tuple[int, int]]:
        nonlocal asked
        for span in spans:
            asked += 1
            yield span

    parts = read_ahead(rootfs.served, ask(), runs_ahead=2)
    for number, _ in enumerate(parts):
        assert asked <= number + 5
    assert asked == len(spans)


def test_each_span_is_decoded_once_in_the_order_of_addresses(layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    with open_image(layout) as image:
        rootfs = image.rootfs

        layer = rootfs.served.layers[0]
        decoder = layer.decoder

        def count(span: int, data: bytes) -> Decoder:
            decoded.append(layer.index.starts[span])
            return decoder(span, data)

        monkeypatch.setattr(layer, "decoder", count)
        base = rootfs.tree.bases[0]
        for _ in read_ahead(rootfs.served, ((base + start, 1000) for start in range(0, _SIZE, 1000))):
            pass
    assert sorted(decoded) == list(rootfs.served.layers[0].index.starts[:-1])


def test_a_damaged_span_is_an_error_where_its_bytes_are_due(layout: Path) -> None:
    with open_image(layout) as image:
        rootfs = image.rootfs
        blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        broken = next(layer for layer in image.layers if layer.index.summary.blob_digest.endswith(blob.name))
        span = broken.index.span_count - 2
        offset, size = broken.index.stored_range(span)
        before = blob.read_bytes()
        try:
            with blob.open("r+b") as changed:
                changed.seek(offset + size // 2)
                changed.write(b"damage")
            base = rootfs.tree.bases[broken.number]
            parts = read_ahead(rootfs.served, [(base, _SIZE)])
            for _ in range(span):
                next(parts)
            with pytest.raises(InvalidImageError, match="changed or damaged"):
                next(parts)
        finally:
            blob.write_bytes(before)
