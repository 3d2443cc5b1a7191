"""Blobs of images: the `Source` interface, downloads, and the cache in front of a registry.

It may import `layer`, `sources` and `store`, and what they may import.
"""
