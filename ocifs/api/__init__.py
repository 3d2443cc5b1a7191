"""The Python API: an image whose files are used like `pathlib.Path`, its mounts, and a filesystem for fsspec.

It imports `service` and everything below it, for programs; the commands of ocifs do not use it.
"""
