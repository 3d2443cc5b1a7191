"""One layer: its index, and verified random access to its uncompressed tar stream.

May import sources, compression and everything below; it knows neither other layers nor the meaning of files.
"""
