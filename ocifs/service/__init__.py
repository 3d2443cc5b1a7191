"""The service: a keeper that holds the FUSE connections of mounts, and forks a worker to serve each one.

A connection lives as long as any process holds its open `/dev/fuse`. So a mount of the erofs engine survives its
worker: the keeper forks another one, which asks the kernel for the unanswered requests again. A mount survives its
keeper, too: the workers continue, and the next keeper takes over from them. This package imports `mount` and what lies
below it. The keeper imports nothing heavy, and has a single thread, because it forks.
"""

VERBS = frozenset({"mount", "umount", "mounts", "run", "bundle"})
"""The commands that the service can run for a caller."""
