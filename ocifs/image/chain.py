"""Names for a stack of layers, for cache entries that are made from all of them."""

from collections.abc import Sequence

import msgspec

from ocifs.layer.layer import Layer
from ocifs.spec.digest import ChainID, DiffID, Digest, chain_id


def chain_of(layers: Sequence[Layer]) -> ChainID:
    """Return the chain ID of one or more layers by the diff IDs in their indexes, whatever algorithm the image uses."""
    return chain_id([DiffID(Digest(layer.index.summary.diff_id)) for layer in layers])


def unverified_name(layers: Sequence[Layer]) -> str:
    """Return a name for a stack with unverified layers: a digest of the blobs and of the sources of their indexes."""
    claims = [
        (
            layer.index.summary.blob_digest,
            None if layer.verification.is_verified else layer.verification.published,
            layer.index.summary.toc,
        )
        for layer in layers
    ]
    return Digest.of(msgspec.json.encode(claims))
