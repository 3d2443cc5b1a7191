"""One layer: its index, and verified random access to its uncompressed tar stream.

A layer's index comes from the store, or is made in one forward pass over the blob, which proves blob digest and diff
ID. After that every read decodes only the spans it needs, and no span is decoded before its digest is checked. A layer
does not know the other layers, nor what its files mean.
"""
