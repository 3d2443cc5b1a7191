"""Where images come from: references, sources, and images resolved from a source.

It may import `spec`, `toc`, and the modules below them. A new local source is one module, a name in `reference.py` and
a row of the table in `resolve.py`.
"""
