package update

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// Documents returns the owner's documents of these paths as the repository has them
// now, verified; the value is what the caller holds already, and is not fetched
// again if it is the same. What the repository does not have is not in the answer.
func (e *Engine) Documents(ctx context.Context, held map[string][]byte) (map[string][]byte, error) {
	e.repo.Lock()
	defer e.repo.Unlock()
	if err := e.cfg.Repo.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("refresh metadata: %w", err)
	}
	found := make(map[string][]byte)
	for path, data := range held {
		var err error
		if found[path], err = e.cfg.Repo.Read(ctx, path, data); errors.Is(err, tuf.ErrNoTarget) {
			delete(found, path)
		} else if err != nil {
			return nil, fmt.Errorf("read document: %w", err)
		}
	}
	return found, nil
}

// Carry lends the repository's metadata, as they were last found, to a process that
// verifies by itself.
func (e *Engine) Carry(to func(repository tuf.Fetcher) error) error {
	e.repo.Lock()
	defer e.repo.Unlock()
	return to(e.cfg.Repo)
}

// Root reads the root that the client keeps, or the pinned one.
func (r *tufRepo) Root() (version int64, end time.Time, err error) {
	data, err := r.cfg.FS.ReadFile(filepath.Join(r.cfg.Dir, tuf.Root+".json"), tuf.MaxRoot)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fsx.ErrDamaged) {
		data, err = r.cfg.Root, nil
	}
	var root struct {
		Signed struct {
			Version int64
			Expires time.Time
		}
	}
	if err == nil {
		err = json.Unmarshal(data, &root)
	}
	return root.Signed.Version, root.Signed.Expires, err
}
