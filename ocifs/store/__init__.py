"""The cache directory: files that ocifs can build again, named by the digest of their input.

It imports only the modules below it; it does not know the content of the files.
"""

from ocifs.store.entry import Kind, StoredFile
from ocifs.store.store import DEFAULT_MAX_SIZE, CacheEntry, Store, default_directory
from ocifs.store.writer import Build, Writer

__all__ = [
    "DEFAULT_MAX_SIZE",
    "Build",
    "CacheEntry",
    "Kind",
    "Store",
    "StoredFile",
    "Writer",
    "default_directory",
]
