"""The terminal interface that browses an image; the only package that imports textual.

It imports `report` and everything below it; it knows nothing of commands or mounts.
"""
