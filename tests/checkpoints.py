"""Checkpoints as spans are decoded from them."""

from ocifs.compression import Checkpoint, Pass
from ocifs.compression.zstd_frame import unpack


def unpacked(reading: Pass) -> list[Checkpoint]:
    """Return the checkpoints that a pass has found, with their windows as bytes."""
    return [point._replace(window=point.window and unpack(point.window, 1 << 15)) for point in reading.checkpoints()]
