"""Digests, and the IDs made of them (image-spec descriptor.md#digests, config.md#layer-diffid, #layer-chainid).

A `Digest` has always been checked against the grammar of its algorithm, so it is safe in a path. The digest of a layer
as stored, its diff ID and the chain ID of a stack of layers are three things; the types keep them apart.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NewType, Self

from ocifs.errors import InvalidImageError, UnsupportedError
from ocifs.spec.document import shown

if TYPE_CHECKING:
    from hashlib import _Hash

_GRAMMAR = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):[a-zA-Z0-9=_-]+")
_SUPPORTED = {"sha256": re.compile(r"sha256:[a-f0-9]{64}"), "sha512": re.compile(r"sha512:[a-f0-9]{128}")}


CANONICAL = "sha256"
"""The algorithm of every diff ID that ocifs computes, so that a stack of layers has one name, whichever algorithm an
image uses."""


class Digest(str):
    """`algorithm:hex`, checked at construction.

    Raises:
        InvalidImageError: The text is not a digest.
        UnsupportedError: ocifs cannot verify its algorithm.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check `text`."""
        match = _GRAMMAR.fullmatch(text)
        if match is None:
            raise InvalidImageError(f"malformed digest '{shown(text)}': expected sha256: and 64 hex digits")
        if match[1] not in _SUPPORTED:
            raise UnsupportedError(
                f"unsupported digest algorithm '{shown(match[1])}': ocifs verifies sha256 and sha512"
            )
        if not _SUPPORTED[match[1]].fullmatch(text):
            raise InvalidImageError(f"malformed {match[1]} digest '{shown(text)}'")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """Return the digest of `data`."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The part after the colon: lower-case hex digits."""
        return self.partition(":")[2]

    def hasher(self) -> "_Hash":
        """Return a new hash object of the algorithm."""
        return hashlib.new(self.algorithm)


DiffID = NewType("DiffID", Digest)
"""Digest of a layer's uncompressed tar."""
ChainID = NewType("ChainID", Digest)
"""Digest that names a stack of layers, the base first."""


def chain_id(diff_ids: Sequence[DiffID]) -> ChainID:
    """Return the chain ID of one or more layers: the diff ID of a single layer, otherwise a sha256 digest.

    Raises:
        ValueError: There are no layers. The specification gives such a stack no name, and the digest of no bytes is
            the diff ID of a layer of 0 bytes.
    """
    if not diff_ids:
        raise ValueError("a chain ID needs at least one layer")
    chain: Digest = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = Digest.of(f"{chain} {diff_id}".encode())
    return ChainID(chain)
