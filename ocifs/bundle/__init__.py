"""Runtime bundles: config.json from an image's config, and running the container with runc or crun.

This package imports `image` and what lies below it, and knows nothing of mounts: its caller puts the rootfs into the
bundle.
"""
