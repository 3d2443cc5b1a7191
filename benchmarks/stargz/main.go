// The stargz snapshotter of Debian's golang-github-containerd-stargz-snapshotter-dev as a server with default settings:
// the package has the library, but not the program. benchmarks/snapshotter.py builds it.
package main

import (
	"context"
	"log"
	"net"
	"os"
	"path/filepath"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/snapshot"
	"google.golang.org/grpc"
)

func main() {
	address, root := os.Args[1], os.Args[2]
	files, err := fs.NewFilesystem(filepath.Join(root, "stargz"), config.Config{})
	if err != nil {
		log.Fatal(err)
	}
	snapshotter, err := snapshot.NewSnapshotter(
		context.Background(), filepath.Join(root, "snapshotter"), files, snapshot.AsynchronousRemove)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	snapshots.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	listener, err := net.Listen("unix", address)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(listener))
}
