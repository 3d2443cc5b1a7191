"""The Python API: an image whose files are used like `pathlib.Path`, its mounts, and a filesystem for fsspec.

It is a layer above `ocifs.image`, for programs; the commands of ocifs do not use it.
"""
