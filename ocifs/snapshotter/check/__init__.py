"""What `ocifs snapshotter check` finds out about a node: containerd, Docker, the kernel, and the snapshotter itself.

The modules judge values (a configuration, a version); `node` reads these from the machine. Nothing here changes
anything, and nothing imports gRPC before it asks a socket.
"""
