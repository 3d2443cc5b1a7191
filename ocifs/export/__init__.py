"""Write a whole rootfs: to a directory, a tar archive, or one mountable file.

This package imports `image` and everything below it; it knows nothing of mounts or of commands.
"""
