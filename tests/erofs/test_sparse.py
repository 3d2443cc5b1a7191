import random

from hypothesis import given
from hypothesis import strategies as st

from ocifs.erofs import sparse
from tests.erofs.trees import Layers, directory, expected_content
from tests.erofs.trees import sparse as sparse_file

LAYERS = Layers(random.Random(5).randbytes(64 << 10))


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, tuple[tuple[int, int], ...]]:
    unit = draw(st.sampled_from([1, 512, 1024, 4096]))
    borders = sorted(draw(st.lists(st.integers(0, 40), max_size=12)))
    pieces = tuple((low * unit, (high - low) * unit) for low, high in zip(borders[::2], borders[1::2], strict=False))
    end = pieces[-1][0] + pieces[-1][1] if pieces else 0
    return end + draw(st.sampled_from([0, 1, 100, 512, 5000])) or 1, pieces


@given(maps(), st.integers(0, 8).map(lambda n: n * 256))
def test_the_bytes_are_those_of_the_pieces(shape: tuple[int, tuple[tuple[int, int], ...]], offset: int) -> None:
    size, pieces = shape
    if sum(length for _, length in pieces) + offset > len(LAYERS.layers[0]):
        return
    node = sparse_file(size, offset, *pieces)
    image = LAYERS.compile(directory({b"f": node}))
    nid = image.lookup(image.root, b"f")
    assert nid is not None
    expected = expected_content(node, LAYERS.layers)
    assert LAYERS.content(image, nid, image.read(image.size, 0)) == expected
    for low in (0, size // 3, size - 1):
        extents = image.extents(nid, low, 700)
        assert sum(length for _, length in extents) == min(700, size - low)


def test_aligned_pieces_are_not_copied() -> None:
    chunks = sparse.cut(1 << 20, sparse.pieces_of(1 << 20, 512, [(65_536, 65_536), (1 << 19, 1 << 19)]))
    assert (chunks.bits, chunks.literal) == (16, [])
    assert chunks.table_size == 64


def test_a_file_of_256_gib_with_a_few_pages_is_cheap() -> None:
    pieces = [(0, 4096), (100 << 30, 4096), ((256 << 30) - 4096, 4096)]
    chunks = sparse.cut(256 << 30, sparse.pieces_of(256 << 30, 512, pieces))
    assert chunks.table_size + chunks.literal_blocks * 512 < 5 << 20


def test_many_pieces_are_cut_quickly() -> None:
    pieces = [(n * 8192, 4096) for n in range(100_000)]
    chunks = sparse.cut(100_000 * 8192, sparse.pieces_of(100_000 * 8192, 512, pieces))
    assert (chunks.bits, chunks.literal) == (12, [])
