"""Writing a whole rootfs: to a directory, a tar archive, or one mountable file."""
