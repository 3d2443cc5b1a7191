// The stargz snapshotter of Debian's golang-github-containerd-stargz-snapshotter-dev as a server with default settings:
// the package has the library, but not the program. benchmarks/snapshotter.py builds it.
package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/reference"
	"github.com/containerd/containerd/remotes/docker"
	"github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/source"
	"github.com/containerd/stargz-snapshotter/snapshot"
	"google.golang.org/grpc"
)

// Of registries on this machine, by plain HTTP.
func hosts(name reference.Spec) ([]docker.RegistryHost, error) {
	client := &http.Client{Transport: http.DefaultTransport}
	configure := docker.ConfigureDefaultRegistries(
		docker.WithClient(client), docker.WithPlainHTTP(docker.MatchLocalhost))
	return configure(name.Hostname())
}

func main() {
	address, root := os.Args[1], os.Args[2]
	sources := fs.WithGetSources(source.FromDefaultLabels(hosts))
	files, err := fs.NewFilesystem(filepath.Join(root, "stargz"), config.Config{}, sources)
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
