"""A rootfs written out whole: as a directory, as a tar archive, as one mountable file."""
