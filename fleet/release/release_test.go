package release_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/testdata/boot"
	target "github.com/gatewarden/gatewarden/update/release"
)

// author is an owner at work.
type author struct {
	t      *testing.T
	dir    string
	served string
	now    time.Time
	repo   *release.Repo
}

func newAuthor(t *testing.T) *author {
	t.Helper()
	a := &author{t: t, dir: filepath.Join(t.TempDir(), "repo"), served: filepath.Join(t.TempDir(), "served"), now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	var err error
	a.repo, err = release.Init(a.config(), release.DefaultInit("edge"))
	must(t, err)
	return a
}

func (a *author) config() release.Config {
	return release.Config{FS: &fsx.FS{}, Dir: a.dir, Now: func() time.Time { return a.now }}
}

// reopen forgets all that is not on disk.
func (a *author) reopen(keys ...string) {
	a.t.Helper()
	cfg := a.config()
	cfg.Keys = keys
	var err error
	a.repo, err = release.Open(cfg)
	must(a.t, err)
}

// options are those of a release with small images that depend on version alone.
func (a *author) options(version string, epoch uint64) release.BuildOptions {
	a.t.Helper()
	dir := filepath.Join(filepath.Dir(a.dir), "in-"+version)
	must(a.t, os.MkdirAll(dir, 0o755))
	files := map[string][]byte{
		"root.img": append(noise("rootfs", 1<<20), noise(version, 1<<16)...),
		"gw.efi":   boot.UKI("kernel of "+version, "VERSION="+version, "console=ttyS0 gw="+version),
		"loader":   boot.PE(boot.Section{Name: ".text", Data: []byte("systemd-boot")}),
	}
	for name, data := range files {
		must(a.t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	return release.BuildOptions{
		Product: "edge", Channel: "stable", Version: version, Epoch: epoch, Hardware: []string{"Acme G1"},
		Rootfs: filepath.Join(dir, "root.img"), UKI: filepath.Join(dir, "gw.efi"), Loader: filepath.Join(dir, "loader"),
		Confirm: target.Confirm{Timeout: 300, Link: true, Checks: []target.Criterion{{Check: "disk", Within: 60}}},
	}
}

func (a *author) build(version string, epoch uint64) *release.Built {
	a.t.Helper()
	built, err := a.repo.Build(context.Background(), a.options(version, epoch))
	must(a.t, err)
	return built
}

func (a *author) sign() []release.Signed {
	a.t.Helper()
	done, err := a.repo.Sign()
	must(a.t, err)
	return done
}

func (a *author) publish() *release.Published {
	a.t.Helper()
	done, err := a.repo.Publish(context.Background(), release.PublishOptions{To: a.served})
	must(a.t, err)
	return done
}

func noise(seed string, n int) []byte {
	random := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	data := make([]byte, n)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(data[i:], random.Uint64())
	}
	return data
}

// tree is the contents of a folder by path.
func tree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		all[name], err = os.ReadFile(path)
		return err
	}))
	return all
}

func same(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for name, data := range a {
		if other, ok := b[name]; !ok || !bytes.Equal(data, other) {
			return false
		}
	}
	return true
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
