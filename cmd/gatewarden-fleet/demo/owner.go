package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/fsx"
	contents "github.com/gatewarden/gatewarden/update/release"
)

const (
	slotSize = 64 << 20 // bytes of a root file system
	block    = 64 << 10 // bytes that change together
	changed  = 20       // of slotSize/block blocks, from one release to the next: 2 %

	serviceSize = 4 << 10 // bytes, at the image's beginning
)

// owner authors releases: the folder with the keys, which the fleet server has not.
type owner struct {
	dir  string
	repo *release.Repo
}

func newOwner(dir string) (*owner, error) {
	repo, err := release.Init(release.Config{FS: &fsx.FS{}, Dir: filepath.Join(dir, "repository"), Now: time.Now}, release.DefaultInit(product, otherProduct))
	if err != nil {
		return nil, err
	}
	return &owner{dir: dir, repo: repo}, os.MkdirAll(filepath.Join(dir, "build"), 0o700)
}

// release builds, signs and publishes s, with reference values that the build
// predicts.
func (o *owner) release(ctx context.Context, s software, to string, confirm contents.Confirm) error {
	files := map[string][]byte{"rootfs": rootfs(s), "uki": s.uki, "loader": loader()}
	for name, data := range files {
		if err := os.WriteFile(o.file(s, name), data, 0o600); err != nil {
			return err
		}
	}
	_, err := o.repo.Build(ctx, release.BuildOptions{
		Product: s.product, Channel: channel, Version: s.version, Epoch: s.epoch, Hardware: []string{model},
		Rootfs: o.file(s, "rootfs"), UKI: o.file(s, "uki"), Loader: o.file(s, "loader"), Confirm: confirm,
	})
	if err != nil {
		return err
	}
	if _, err := o.repo.Policy(release.PolicyOptions{Fleet: fleetID}); err != nil {
		return err
	}
	if _, err := o.repo.Sign(); err != nil {
		return err
	}
	_, err = o.repo.Publish(ctx, release.PublishOptions{To: to})
	return errors.Join(err, os.Remove(o.file(s, "rootfs")))
}

func (o *owner) file(s software, name string) string {
	return filepath.Join(o.dir, "build", fmt.Sprintf("%s-%s-%s", s.product, s.version, name))
}

// rootfs makes the image of a release: its service, and what is the same in each
// generation but for changed blocks. Half of it is compressible, as file systems are.
func rootfs(s software) []byte {
	data := make([]byte, slotSize)
	fill(data[serviceSize:], 1)
	copy(data, s.service())
	for g := uint64(2); g <= s.generation; g++ {
		random := rand.New(rand.NewPCG(g, 0))
		for range changed {
			at := (1 + random.IntN(slotSize/block-1)) * block
			fill(data[at:at+block], random.Uint64())
		}
	}
	return data
}

func fill(data []byte, seed uint64) {
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), byte(seed >> 32)})
	for at := 0; at < len(data); at += 2 * 4096 {
		_, _ = random.Read(data[at:min(at+4096, len(data))]) // never fails; the other half stays zero
	}
}
