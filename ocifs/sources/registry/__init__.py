"""Images in a registry (distribution spec): found, authorized, fetched in pieces, and verified by digest and size.

`urllib3` and `tomllib` are imported when a registry is spoken to, so a command on local images does not pay for them.
"""
