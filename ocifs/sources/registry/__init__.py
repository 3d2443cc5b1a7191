"""Images in a registry (distribution spec): resolved, authorized, fetched in ranges, verified by digest and size.

`urllib3` and `tomllib` are imported when a registry is accessed, so a command on local images does not pay for them.
"""
