"""containerd's remote snapshotter: images without unpacking, one merged mount each.

`server` answers containerd over gRPC. `snapshots` decides; the metadata is in `database`, the directories of ordinary
snapshots in `directories`, and merged mounts in `images`.
"""
