"""The bytes of a pack: packs are read as they were written, and impossible values are refused."""

import hashlib
import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
import zstandard

from ocifs.errors import InvalidImageError
from ocifs.hotpack.format import (
    BLOCK_MAX,
    FRAME_MAX,
    Block,
    Head,
    Stream,
    encode_head,
    head_digest,
    read_table,
)
from ocifs.layer.index_format import pack_u64
from ocifs.reader import BytesReader

PAGE = 4096
STREAMS = [Stream("sha256:base", 3 * PAGE), Stream("sha256:top", 2 << 20)]
DATA = [bytes([number]) * PAGE for number in range(3)]
BLOCKS = [
    Block(layer, offset, PAGE, hashlib.sha256(data).digest())
    for (layer, offset), data in zip([(1, 0), (0, PAGE), (1, 2 * PAGE)], DATA, strict=True)
]
FRAMES = [zstandard.compress(DATA[0] + DATA[1]), zstandard.compress(DATA[2])]
RECORDINGS = ((5, 2), (6, 1))
PACK = (
    encode_head(
        tuple(stream.name for stream in STREAMS),
        [(BLOCKS[:2], len(FRAMES[0])), (BLOCKS[2:], len(FRAMES[1]))],
        RECORDINGS,
    )
    + FRAMES[0]
    + FRAMES[1]
)


def changed(**members: Any) -> bytes:
    """Return the pack with other members of its head, whose digest is right."""
    size = struct.unpack_from("<I", PACK, 8)[0]
    head = msgspec.msgpack.decode(zstandard.decompress(PACK[44 : 44 + size]), type=Head)
    packed = zstandard.compress(msgspec.msgpack.encode(msgspec.structs.replace(head, **members)))
    return struct.pack("<8sI32s", PACK[:8], len(packed), hashlib.sha256(packed).digest()) + packed + PACK[44 + size :]


def test_what_is_written_is_read() -> None:
    table = read_table(BytesReader(PACK), STREAMS, 3 * PAGE)
    assert [frame.blocks for frame in table.frames] == [tuple(BLOCKS[:2]), tuple(BLOCKS[2:])]
    assert (table.size, table.end, table.recordings) == (3 * PAGE, len(PACK), RECORDINGS)
    for frame, blocks in zip(table.frames, (DATA[:2], DATA[2:]), strict=True):
        views = frame.decode(PACK[frame.offset : frame.offset + frame.stored])
        assert views is not None
        assert list(map(bytes, views)) == blocks
    assert read_table(BytesReader(PACK), STREAMS, 3 * PAGE, head_digest(BytesReader(PACK))) == table


def test_a_frame_with_other_bytes_is_refused() -> None:
    frame = read_table(BytesReader(PACK), STREAMS, 3 * PAGE).frames[0]
    assert frame.decode(FRAMES[1]) is None
    assert frame.decode(zstandard.compress(DATA[1] + DATA[0])) is None
    assert frame.decode(FRAMES[0][:-1]) is None
    assert frame.decode(b"") is None


def huge(count: int, size: int) -> dict[str, bytes]:
    return {
        "layers": pack_u64([1] * count),
        "offsets": pack_u64(range(0, count * size, size)),
        "sizes": pack_u64([size] * count),
        "digests": bytes(32 * count),
        "counts": pack_u64([count]),
        "stored": pack_u64([len(FRAMES[0] + FRAMES[1])]),
    }


WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is too short"),
    "a part of its start": (PACK[:20], "it is too short"),
    "another version": (PACK.replace(b"ocifshp1", b"ocifshp2"), "it has another version"),
    "a head that is too large": (PACK[:8] + struct.pack("<I", 1 << 30) + PACK[12:], "its head has another digest"),
    "a damaged head": (PACK[:60] + b"?" + PACK[61:], "its head is damaged"),
    "truncated": (PACK[:-1], "it is truncated"),
    "longer": (PACK + b"\0", "it is truncated"),
    "another image": (changed(streams=("sha256:base", "sha256:other")), "it belongs to other layers"),
    "fewer layers": (changed(streams=("sha256:base",)), "it belongs to other layers"),
    "half a number": (changed(offsets=bytes(25)), "bytes length not a multiple of item size"),
    "missing digests": (changed(digests=bytes(95)), "its columns contradict each other"),
    "missing offsets": (changed(offsets=pack_u64([0, 1])), "its columns contradict each other"),
    "a layer that does not exist": (changed(layers=pack_u64([2, 0, 1])), "outside of its layer"),
    "a block behind the end": (changed(offsets=pack_u64([0, 2 * PAGE + 1, 2 * PAGE])), "outside of its layer"),
    "a huge offset": (changed(offsets=pack_u64([0, (1 << 64) - 1, 2 * PAGE])), "outside of its layer"),
    "an empty block": (changed(sizes=pack_u64([0, PAGE, PAGE])), "outside of its layer"),
    "overlapping blocks": (changed(offsets=pack_u64([0, 0, PAGE - 1])), "overlaps another one"),
    "a large block": (changed(**huge(1, BLOCK_MAX + 1)), "outside of its layer"),
    "a large frame": (changed(**huge(FRAME_MAX // BLOCK_MAX + 1, BLOCK_MAX)), "a frame is too large"),
    "a large stored frame": (changed(stored=pack_u64([1 << 40, 1])), "a frame is too large"),
    "too few blocks in frames": (changed(counts=pack_u64([1, 1])), "its frames contradict its blocks"),
    "an empty frame": (changed(counts=pack_u64([3, 0])), "its frames contradict its blocks"),
    "too many frames": (changed(counts=pack_u64([1, 1, 1])), "its frames contradict its blocks"),
    "a block within a page": (changed(offsets=pack_u64([1, PAGE, 2 * PAGE])), "not in whole pages"),
    "a part of a page": (changed(sizes=pack_u64([PAGE, PAGE - 1, PAGE])), "not in whole pages"),
    "blocks of a byte": (changed(**huge(1 << 18, 1)), "not in whole pages"),
    "too many blocks": (changed(**huge((1 << 18) + 1, 1)), "length <= "),
    "more recorded blocks than there are": (changed(recordings=((5, 2), (6, 2))), "its recordings contradict"),
    "a negative time": (changed(recordings=((-1, 1),)), ">= 0"),
    "a negative number of blocks": (changed(recordings=((5, 4), (6, -1))), ">= 0"),
    "too many recordings": (changed(recordings=((0, 0),) * 20_000), "length <= 16384"),
    "too many streams": (changed(streams=("sha256:base",) * 20_000), "length <= 16384"),
    "a long name of a stream": (changed(streams=("sha256:base", "s" * 300)), "length <= 256"),
}


@pytest.mark.parametrize("name", WRONG)
def test_heads_with_impossible_values_are_refused(name: str) -> None:
    data, why = WRONG[name]
    with pytest.raises(InvalidImageError, match=why):
        read_table(BytesReader(data), STREAMS, 64 << 20)


def test_the_last_block_of_a_stream_may_be_a_part_of_a_page() -> None:
    streams = [STREAMS[0], Stream("sha256:top", 2 * PAGE + 5)]
    table = read_table(BytesReader(changed(sizes=pack_u64([PAGE, PAGE, 5]))), streams, 3 * PAGE)
    assert table.frames[1].blocks[0].size == 5


@pytest.mark.parametrize("members", [{"recordings": ((0, 0),) * 2_000_000}, {"streams": ("",) * 2_000_000}])
def test_a_small_head_takes_no_memory_for_what_it_claims(members: dict[str, Any]) -> None:
    data = changed(**members)
    assert len(data) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(InvalidImageError):
            read_table(BytesReader(data), STREAMS, 64 << 20)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_pack_over_its_bound_is_refused() -> None:
    with pytest.raises(InvalidImageError, match="it has 12288 bytes, more than 12287"):
        read_table(BytesReader(PACK), STREAMS, 3 * PAGE - 1)


def test_a_published_pack_has_the_head_that_the_artifact_states() -> None:
    with pytest.raises(InvalidImageError, match="its head has another digest"):
        read_table(BytesReader(PACK), STREAMS, 64 << 20, bytes(32))
