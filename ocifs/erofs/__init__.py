"""The tree image: a merged tree as EROFS metadata. The kernel can mount it, and the reader answers from it.

This package imports `tree` (only its nodes) and the modules below it; it knows nothing of blobs or compression.
"""
