"""The kinds of cache entries that hold tree images, each named by the chain ID of its layers."""

from ocifs.store import Kind

TREE = Kind("tree", 4, sealed=True)
"""The merged tree of some layers."""
CHANGES = Kind("changes", 3, sealed=True)
"""The changes of the last of some layers."""
