"""An additional image store for podman, buildah and CRI-O: images of ocifs in the format of containers/storage.

The metadata are files on disk, as containers/storage 1.43 to 1.57 reads them; the layers' directories are a single
mount of one tree image. This package imports `image` and everything below it; it knows nothing of mounts or commands.
"""
