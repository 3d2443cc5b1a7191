"""Mount a rootfs: check the mountpoint, start and run the daemon that serves it, list and undo mounts.

This package imports `image` and what lies below it. It is the only one that uses trio and pyfuse3, and only in the
modules of the daemon, so that commands start fast.
"""
