"""The merged tree in memory: its nodes, whiteouts, and the rules that apply a layer to it.

This package imports `toc` and the modules below it; it knows nothing of blobs or of how the tree is stored.
"""
