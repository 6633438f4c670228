package tuf_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

// device is a follower of a repository, with a clock.
type device struct {
	t      *testing.T
	repo   *tuftest.Repo
	fs     *fsx.FS
	dir    string
	pinned []byte
	now    time.Time
	from   tuf.Fetcher // the repository, or who stands before it
}

func newDevice(t *testing.T) *device {
	t.Helper()
	repo := tuftest.New(t)
	return &device{t: t, repo: repo, fs: &fsx.FS{}, dir: filepath.Join(t.TempDir(), "metadata"), pinned: repo.Served["root"][0], now: tuftest.Epoch(), from: repo.Metadata()}
}

func (d *device) refresh() (*tuf.Client, error) {
	d.t.Helper()
	c, err := tuf.New(tuf.Config{
		FS: d.fs, Dir: d.dir, Root: d.pinned, Metadata: d.from, Targets: d.repo.TargetFiles(), Now: func() time.Time { return d.now },
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return c, c.Refresh(d.t.Context())
}

// good refreshes, which must succeed.
func (d *device) good() *tuf.Client {
	d.t.Helper()
	c, err := d.refresh()
	if err != nil {
		d.t.Fatalf("refresh: %v", err)
	}
	return c
}

// refused refreshes, which must fail by rule and leave what is stored as it was,
// but for the roles named in changes.
func (d *device) refused(role, rule string, changes ...string) {
	d.t.Helper()
	before := d.stored()
	c, err := d.refresh()
	mustRefuse(d.t, err, role, rule)
	if _, err := c.Target(d.t.Context(), "file"); err == nil {
		d.t.Error("a target was given out after a failed refresh")
	}
	after := d.stored()
	for _, role := range changes {
		delete(before, role+".json")
		delete(after, role+".json")
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		d.t.Errorf("what is stored changed from %d to %d files", len(before), len(after))
	}
}

func mustRefuse(t *testing.T, err error, role, rule string) {
	t.Helper()
	var r *tuf.Refusal
	if !errors.As(err, &r) || r.Role != role || r.Rule != rule {
		t.Fatalf("error is %v, want a refusal of %s by rule %q", err, role, rule)
	}
	if len(err.Error()) > 500 {
		t.Errorf("the refusal has %d bytes", len(err.Error()))
	}
}

// stored returns the files of the metadata folder, by name; old roots left out.
func (d *device) stored() map[string]string {
	d.t.Helper()
	all := make(map[string]string)
	entries, err := os.ReadDir(d.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(d.dir, e.Name()))
		if err != nil {
			d.t.Fatal(err)
		}
		all[e.Name()] = string(data)
	}
	return all
}

func (d *device) target(c *tuf.Client, path string) tuf.Target {
	d.t.Helper()
	target, err := c.Target(d.t.Context(), path)
	if err != nil {
		d.t.Fatal(err)
	}
	return target
}

func download(t *testing.T, c *tuf.Client, target tuf.Target) (string, error) {
	t.Helper()
	var data bytes.Buffer
	err := c.Download(t.Context(), target, &data)
	return data.String(), err
}

// at walks down a JSON tree by keys.
func at(tree map[string]any, keys ...string) map[string]any {
	for _, key := range keys {
		tree = tree[key].(map[string]any)
	}
	return tree
}

func days(n int) time.Time { return tuftest.Epoch().AddDate(0, 0, n) }
