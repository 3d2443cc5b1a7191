"""Mounting a rootfs: finding a fit mountpoint, the process that serves it, and undoing it.

The only place that knows trio and pyfuse3; and of this only the daemon's own modules, so that commands start fast.
"""
