"""containerd's remote snapshotter: images without unpacking, one merged mount each.

`server` answers containerd over gRPC. `snapshots` decides; the metadata is in `database`, the directories of ordinary
snapshots in `directories`, and merged mounts in `images`. This package imports `service` and everything below it, and
alone imports grpc and protobuf.
"""
