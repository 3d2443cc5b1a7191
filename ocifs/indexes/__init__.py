"""Where a LayerIndex comes from, other than indexing: published artifacts, SOCI, TOCs in layers, GZIDX.

It also selects among them. May import blobs and everything below; it knows nothing of trees or mounts.
"""
