import msgspec

from ocifs.image.chain import chain_of
from ocifs.image.hot_pack import PACK, pack_name
from ocifs.layer.index import ChunkedIndex
from ocifs.layer.layer import Layer
from ocifs.layer.span_cache import SpanCache
from tests.hotpack.packs import layer_of, tar_of


def in_chunks(layer: Layer, stream: str) -> Layer:
    """Return a layer with a stream of chunks instead of its tar stream."""
    index = ChunkedIndex.__new__(ChunkedIndex)  # its columns do not matter here
    index.summary = msgspec.structs.replace(layer.index.summary, toc=stream)
    return Layer(layer.number, index, layer.blob, SpanCache())


def test_a_pack_of_chunks_never_has_the_name_of_a_pack_of_tars() -> None:
    tars = [layer_of(0, tar_of(4096, 1)), layer_of(1, tar_of(4096, 2))]
    mixed = [in_chunks(tars[0], tars[0].index.stream), tars[1]]
    assert [layer.index.stream for layer in mixed] == [layer.index.stream for layer in tars]
    assert pack_name(tars) == (PACK, chain_of(tars))
    assert pack_name(mixed).kind == PACK
    assert pack_name(mixed) != pack_name(tars)
