package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/plan"
	"github.com/gatewarden/gatewarden/update/chunk/store"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// Progress is how far an image is.
type Progress struct {
	Image   string `json:"image,omitempty"` // kind of slot
	Chunks  int    `json:"chunks"`          // of the image
	Missing int    `json:"missing"`         // when its transfer began, to be fetched: each once
	Fetched int    `json:"fetched"`         // of these
	Bytes   int64  `json:"bytes"`           // to be fetched at most, when its transfer began
}

// fetch looks again at what is on offer, and gets the release's metadata and
// indexes into the state folder, so that a restart finds them.
func (e *Engine) fetch(ctx context.Context) (time.Duration, error) {
	job := e.job()
	offer, err := e.choose(ctx, false)
	if err != nil {
		return 0, err
	}
	if offer == nil || offer.Target != job.Target || offer.Digest != job.Digest {
		return 0, e.end(wire.UpdateFailed, ruleNewer, "The repository offers another release by now.", false)
	}
	if offer.Refused != nil {
		return 0, offer.Refused
	}
	if err := e.cfg.FS.WriteFile(e.path(releaseFile), offer.custom, 0o600); err != nil {
		return 0, fmt.Errorf("keep release: %w", err)
	}
	for _, image := range offer.images() {
		if err := e.fetchRunning(ctx, image.Slot, offer); err != nil {
			return 0, err
		}
		if err := e.fetchIndex(ctx, image); err != nil {
			return 0, err
		}
	}
	if err := e.keepSealing(ctx, offer.slots); err != nil {
		return 0, err
	}
	if e.job().Fetched+e.uncounted() > job.Budget {
		return 0, fmt.Errorf("fetch indexes: %w", store.ErrBudget)
	}
	e.fresh = true
	return 0, e.enter(Installing, e.ascribe())
}

// fetchIndex does not ask the network for an index that is here already: of this
// release, or of an unchanged image of the one that runs.
func (e *Engine) fetchIndex(ctx context.Context, image release.Image) error {
	next := e.path(indexFile("next", image.Slot))
	var stored [][]byte
	for _, path := range []string{next, e.path(indexFile("running", image.Slot))} {
		data, err := e.kept(path)
		if err != nil {
			return err
		}
		if data != nil {
			stored = append(stored, data)
		}
	}
	e.repo.Lock()
	data, err := e.cfg.Repo.Read(ctx, image.Index, stored...)
	e.repo.Unlock()
	if err != nil {
		return fmt.Errorf("get index of %s: %w", image.Slot, err)
	}
	if len(stored) > 0 && bytes.Equal(data, stored[0]) {
		if old, err := e.kept(next); err == nil && bytes.Equal(old, data) {
			return nil
		}
	}
	if err := e.cfg.FS.WriteFile(next, data, 0o600); err != nil {
		return fmt.Errorf("keep index of %s: %w", image.Slot, err)
	}
	return nil
}

// fetchRunning gets the index of what runs, unless it is here: without it the
// installer can't find what need not be fetched. A release that was never
// published costs a whole download, so that is tried first.
func (e *Engine) fetchRunning(ctx context.Context, kind string, offer *Offer) error {
	path := e.path(indexFile("running", kind))
	stored, err := e.kept(path)
	if err != nil || stored != nil {
		return err
	}
	e.repo.Lock()
	data, err := e.cfg.Repo.Read(ctx, offer.runningIndex(kind))
	e.repo.Unlock()
	if errors.Is(err, tuf.ErrNoTarget) || errors.Is(err, tuf.ErrNoFile) {
		e.log.Warn("the running release is not in the repository; nothing of it can be used", "release", offer.slots.Version, "image", kind)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get running index of %s: %w", kind, err)
	}
	if err := e.cfg.FS.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("keep running index of %s: %w", kind, err)
	}
	return nil
}

// runningIndex is the path of the index of what the running slot holds: as the
// running release says, else where the owner's tools put it.
func (o *Offer) runningIndex(kind string) string {
	s := o.slots
	if o.running != nil {
		for _, image := range fitting(o.running, s.Running) {
			if image.Slot == kind {
				return image.Index
			}
		}
	}
	return "releases/" + s.Product + "/" + s.Channel + "/" + s.Version + "/" + kind + ".caibx"
}

// kept reads a file of ours, nil if it is not there or is damaged: it can be got
// again.
func (e *Engine) kept(path string) ([]byte, error) { return readKept(e.cfg.FS, path) }

func readKept(files *fsx.FS, path string) ([]byte, error) {
	data, err := files.ReadFile(path, chunk.MaxIndex)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fsx.ErrDamaged) {
		return nil, nil
	}
	return data, err
}

// install has the spare slot written. Whatever lies in it already stays.
func (e *Engine) install(ctx context.Context) (time.Duration, error) {
	if !e.fresh { // a restart, or trouble: what the installer will verify must be of today
		return 0, e.enter(Fetching, nil)
	}
	e.fresh = false
	err := e.transfer(ctx)
	add := e.ascribe()
	if err != nil {
		return 0, errors.Join(err, e.change(func(r *Record) { add(r.Now) }))
	}
	return 0, e.enter(Installed, func(j *Job) { add(j); j.Before = nil })
}

func (e *Engine) transfer(ctx context.Context) (err error) {
	job := e.job()
	session, err := e.cfg.Installer.Install(ctx, job.Target, metadata{e})
	if err != nil {
		return fmt.Errorf("begin install: %w", err)
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	for _, image := range session.Images() {
		if err := e.image(ctx, session, image); err != nil {
			return fmt.Errorf("install %s: %w", image.Kind, err)
		}
	}
	if err := session.Finish(ctx, nil); err != nil {
		return fmt.Errorf("finish install: %w", err)
	}
	return nil
}

// metadata answers the installer, which asks for files while the session begins.
type metadata struct{ engine *Engine }

func (m metadata) Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	m.engine.repo.Lock()
	defer m.engine.repo.Unlock()
	return m.engine.cfg.Repo.Fetch(ctx, name, limit)
}

// image brings one image to the spare slot.
func (e *Engine) image(ctx context.Context, s Session, image helperwire.Image) error {
	data, err := e.kept(e.path(indexFile("next", image.Kind)))
	if err != nil {
		return err
	}
	index, err := chunk.Parse(data)
	if err != nil {
		return err
	}
	if err := s.Index(ctx, image.Kind, data); err != nil {
		return err
	}
	running, err := e.kept(e.path(indexFile("running", image.Kind)))
	if err != nil {
		return err
	}
	missing, err := s.Seed(ctx, running, nil)
	if err != nil {
		return err
	}
	inPlace, err := inverse(missing, index.Len())
	if err != nil {
		return err
	}
	p, err := plan.New(plan.Config{Target: index, InPlace: inPlace})
	if err != nil {
		return err
	}
	e.show(image.Kind, p.Need())
	if p.Need().Fetch.Chunks == 0 {
		return nil
	}
	from, err := e.open(index.Algorithm())
	if err != nil {
		return err
	}
	defer from.Close()
	return p.Run(ctx, from, s.Chunk)
}

// inverse turns the numbers of missing chunks into what is in place.
func inverse(missing []int, of int) ([]bool, error) {
	in := slices.Repeat([]bool{true}, of)
	for _, n := range missing {
		if n < 0 || n >= of {
			return nil, fmt.Errorf("the installer lacks chunk %d, the index has %d", n, of)
		}
		in[n] = false
	}
	return in, nil
}

func (e *Engine) show(kind string, need plan.Need) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.progress = Progress{Image: kind, Chunks: need.Total.Chunks, Missing: need.Fetch.Chunks, Bytes: need.Fetch.Bytes}
}
