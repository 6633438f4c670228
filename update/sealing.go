package update

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// keysFile holds the product's PCR-policy keys as PEM, as the owner published them.
const keysFile = "pcr-keys.pem"

// ErrNoRelease says that the owner's repository does not know the release that runs.
var ErrNoRelease = errors.New("the running release is not in the owner's repository")

// Running returns what the owner signed of the release that runs, with the PCR
// policies that open what is sealed. It is kept, and asks the network only for one
// that no update brought. Nothing in it is to be believed but what carries a
// signature of its own. Errors: ErrNoRelease.
func (e *Engine) Running(ctx context.Context, s helperwire.Slots) (*release.Release, error) {
	kept, err := Kept(e.cfg.FS, e.cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, r := range kept {
		if r.Product == s.Product && r.Channel == s.Channel && r.Version == s.Version {
			return r, nil
		}
	}
	custom, err := e.lookUp(ctx, "releases/"+s.Product+"/"+s.Channel+"/", s.Version+".json")
	if err != nil {
		return nil, fmt.Errorf("look up running release %s: %w", s.Version, err)
	}
	r, err := release.Parse(custom)
	if err != nil {
		return nil, fmt.Errorf("read running release %s: %w", s.Version, err)
	}
	if err := e.cfg.FS.WriteFile(e.path(runningFile), custom, 0o600); err != nil {
		return nil, fmt.Errorf("keep running release: %w", err)
	}
	return r, nil
}

// Kept are the releases whose metadata an engine keeps in dir: the last one that was
// committed, and one that may be on trial. As with Running, only what carries a
// signature of its own is to be believed.
func Kept(files *fsx.FS, dir string) ([]*release.Release, error) {
	var list []*release.Release
	for _, name := range []string{runningFile, releaseFile} {
		data, err := readKept(files, filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("read kept release: %w", err)
		}
		if r, err := release.Parse(data); err == nil {
			list = append(list, r)
		}
	}
	return list, nil
}

// lookUp returns the custom metadata of one target, from the network.
func (e *Engine) lookUp(ctx context.Context, prefix, name string) ([]byte, error) {
	e.repo.Lock()
	defer e.repo.Unlock()
	if err := e.cfg.Repo.Refresh(ctx); err != nil {
		return nil, err
	}
	targets, err := e.cfg.Repo.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		if t.Path == prefix+name {
			return t.Custom, nil
		}
	}
	return nil, ErrNoRelease
}

// PolicyKey returns the key that the owner signs this product's PCR policies with;
// of several, the one to seal to. Kept bytes count only if the owner's metadata,
// verified anew, name them: a file that was swapped on the disk is not believed.
func (e *Engine) PolicyKey(ctx context.Context, product string) (crypto.PublicKey, error) {
	stored, err := e.kept(e.path(keysFile))
	if err != nil {
		return nil, fmt.Errorf("read PCR-policy keys: %w", err)
	}
	e.repo.Lock()
	defer e.repo.Unlock()
	if stored == nil || e.cfg.Repo.Check(ctx, policyKeys(product), stored) != nil {
		err := e.cfg.Repo.Refresh(ctx)
		if err == nil {
			stored, err = e.keepPolicyKeys(ctx, product)
		}
		if err != nil {
			return nil, fmt.Errorf("get PCR-policy keys of %s: %w", product, err)
		}
	}
	block, _ := pem.Decode(stored)
	if block == nil {
		return nil, fmt.Errorf("read PCR-policy keys of %s: no PEM block", product)
	}
	return tpmpolicy.ParseKey(block.Bytes)
}

// policyKeys is the target with a product's PCR-policy keys.
func policyKeys(product string) string { return "policy/pcr/" + product + ".pem" }

// keepPolicyKeys gets them as the metadata of the last refresh name them. The
// caller holds repo.
func (e *Engine) keepPolicyKeys(ctx context.Context, product string) ([]byte, error) {
	stored, err := e.kept(e.path(keysFile))
	if err != nil {
		return nil, err
	}
	data, err := e.cfg.Repo.Read(ctx, policyKeys(product), stored)
	if err != nil || bytes.Equal(data, stored) {
		return data, err
	}
	return data, e.cfg.FS.WriteFile(e.path(keysFile), data, 0o600)
}

// keepSealing gets what sealed secrets will need when the release that comes in is
// on trial, when there may be no network. A product without PCR-policy keys has no
// sealed secrets.
func (e *Engine) keepSealing(ctx context.Context, s helperwire.Slots) error {
	e.repo.Lock()
	_, err := e.keepPolicyKeys(ctx, s.Product)
	e.repo.Unlock()
	if err != nil && !errors.Is(err, tuf.ErrNoTarget) {
		return fmt.Errorf("get PCR-policy keys: %w", err)
	}
	return nil
}

// foresee has secrets sealed for the boot that is to be tried. Only here is believed
// what a release says of its boot without a signature of its own, so that it is held
// to the owner's metadata: the kept file may have been swapped while the power was off.
func (e *Engine) foresee(ctx context.Context, job Job) error {
	if e.cfg.Secrets == nil {
		return nil
	}
	r, kept, err := e.release()
	if err != nil {
		return err
	}
	e.repo.Lock()
	signed, err := e.cfg.Repo.Custom(ctx, job.Target)
	e.repo.Unlock()
	if err != nil {
		return fmt.Errorf("look release %s up in what the owner signed: %w", job.Release, err)
	}
	if !bytes.Equal(signed, kept) {
		return fmt.Errorf("release %s: what is kept of it is not what its owner signed", job.Release)
	}
	if err := e.cfg.Secrets.Foresee(ctx, r, other(job.Old)); err != nil {
		return fmt.Errorf("seal secrets for the trial: %w", err)
	}
	return nil
}

// Check holds bytes to the metadata that were verified before, with no network and
// whatever their age: what an owner signed does not become another's by waiting.
func (r *tufRepo) Check(ctx context.Context, path string, data []byte) error {
	target, err := r.stored(ctx, path)
	if err != nil {
		return err
	}
	return target.Check(bytes.NewReader(data))
}

// Custom is as Check.
func (r *tufRepo) Custom(ctx context.Context, path string) (json.RawMessage, error) {
	target, err := r.stored(ctx, path)
	return target.Custom(), err
}

func (r *tufRepo) stored(ctx context.Context, path string) (tuf.Target, error) {
	cfg := r.cfg
	cfg.Metadata, cfg.Now = storedMetadata{cfg}, func() time.Time { return time.Unix(1, 0) }
	client, err := tuf.New(cfg)
	if err != nil {
		return tuf.Target{}, err
	}
	if err := client.Refresh(ctx); err != nil {
		return tuf.Target{}, err
	}
	return client.Target(ctx, path)
}

// storedMetadata gives the one file that a client always asks for.
type storedMetadata struct{ tuf.Config }

func (s storedMetadata) Fetch(_ context.Context, name string, limit int64) (io.ReadCloser, error) {
	if name != tuf.Timestamp+".json" {
		return nil, tuf.ErrNoFile
	}
	data, err := s.FS.ReadFile(filepath.Join(s.Dir, name), limit)
	return io.NopCloser(bytes.NewReader(data)), err
}
