"""An opened image: its documents, layers and merged tree, readable without a mount.

May import indexes, blobs and everything below; it knows nothing of mounts or of commands.
"""
