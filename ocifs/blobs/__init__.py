"""Blobs from registries: downloads, and the cache in front of a source. May import layer, sources and the store."""
