"""The config.json of a runtime bundle, made of an image's config, and the runtime that runs it.

It knows the runtime specification, and nothing of mounts: whoever calls it has a rootfs in the bundle.
"""
