// containerd's own suite for snapshotters, run by tests/snapshotter/test_conformance_go.py against the socket in
// OCIFS_SOCKET. All tests share one snapshotter: the suite's names do not collide.
//
// OCIFS_BASE may name a committed snapshot without files. It takes the place of no parent, so that all tests run on the
// merged mount of an image; the adaptor hides it.
package conformance

import (
	"context"
	"os"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/pkg/testutil"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

type based struct {
	snapshots.Snapshotter
	base string
}

func (b based) below(parent string) string {
	if parent == "" {
		return b.base
	}
	return parent
}

func (b based) hidden(info snapshots.Info, err error) (snapshots.Info, error) {
	if info.Parent == b.base {
		info.Parent = ""
	}
	return info, err
}

func (b based) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return b.Snapshotter.Prepare(ctx, key, b.below(parent), opts...)
}

func (b based) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return b.Snapshotter.View(ctx, key, b.below(parent), opts...)
}

func (b based) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return b.hidden(b.Snapshotter.Stat(ctx, key))
}

func (b based) Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error) {
	return b.hidden(b.Snapshotter.Update(ctx, info, paths...))
}

func (b based) Walk(ctx context.Context, visit snapshots.WalkFunc, filters ...string) error {
	for i, filter := range filters {
		filters[i] = strings.ReplaceAll(filter, `parent!=""`, `parent!="`+b.base+`"`)
	}
	return b.Snapshotter.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		shown, _ := b.hidden(info, nil)
		return visit(ctx, shown)
	}, filters...)
}

func TestSnapshotter(t *testing.T) {
	testutil.RequiresRoot(t)
	connection, err := grpc.Dial("unix://"+os.Getenv("OCIFS_SOCKET"), grpc.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "ocifs")
	open := func(context.Context, string) (snapshots.Snapshotter, func() error, error) {
		return based{client, os.Getenv("OCIFS_BASE")}, nil, nil
	}
	testsuite.SnapshotterSuite(t, "ocifs", open)
}
