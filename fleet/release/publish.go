package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// PublishOptions say where to. Progress may be left out.
type PublishOptions struct {
	// To is the served folder: what Handler serves, or any web server.
	To string
	// Progress is told, never concurrently, how many chunks were checked and copied.
	Progress func(done, total int64)
}

// Published is what Publish did.
type Published struct {
	Roles  []Signed `json:"roles"`
	Chunks int      `json:"chunks"` // copied
	Files  int      `json:"files"`  // metadata and targets copied
}

// Publish signs the snapshot and the timestamp, looks at the result as devices will,
// and copies it to o.To. The timestamp goes last: until then, also after a power cut,
// devices see the repository as it was. What they would refuse is an error, and then
// nothing that they read has changed. Publish also renews what is about to expire:
// have it run every day.
func (r *Repo) Publish(ctx context.Context, o PublishOptions) (*Published, error) {
	fail := func(err error) (*Published, error) { return nil, fmt.Errorf("publish repository: %w", err) }
	if o.To == "" {
		return fail(errors.New("no folder is named"))
	}
	d, err := r.loadDraft()
	if err != nil {
		return fail(err)
	}
	if !d.empty() {
		return fail(errors.New("there is a draft that is not signed: sign it first"))
	}
	done := &Published{}
	if done.Roles, err = r.list(); err != nil {
		return fail(err)
	}
	if err := r.verify(ctx, o.To); err != nil {
		return fail(err)
	}
	if err := r.copyChunks(ctx, o, done); err != nil {
		return fail(err)
	}
	if err := r.copyTargets(o.To, done); err != nil {
		return fail(err)
	}
	if err := r.copyMetadata(o.To, done); err != nil {
		return fail(err)
	}
	return done, nil
}

// copyTargets copies the content of every target that is signed.
func (r *Repo) copyTargets(to string, done *Published) error {
	for _, role := range []string{Targets, Releases} {
		all, err := r.entries(role)
		if err != nil {
			return err
		}
		for _, name := range sortedKeys(all) {
			data, err := r.content(name, all[name])
			if err != nil {
				return err
			}
			hash := all[name].SHA256
			if err := r.copyFile(to, filepath.Join("targets", filepath.FromSlash(hashedName(name, hash[:]))), data, done); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyMetadata copies the files that the timestamp leads to, and it last.
func (r *Repo) copyMetadata(to string, done *Published) error {
	top, err := r.newest(Root)
	if err != nil {
		return err
	}
	var names []string
	for v := int64(1); v <= top; v++ {
		names = append(names, fileName(Root, v))
	}
	for _, role := range []string{Targets, Releases, Snapshot, Timestamp} {
		v, err := r.newest(role)
		if err != nil {
			return err
		}
		names = append(names, fileName(role, v))
	}
	for _, name := range names {
		data, err := r.cfg.FS.ReadFile(r.path("metadata", name), maxMetadata)
		if err != nil {
			return err
		}
		if err := r.copyFile(to, filepath.Join("metadata", name), data, done); err != nil {
			return err
		}
	}
	return nil
}

// copyFile leaves a file alone that is as it should be.
func (r *Repo) copyFile(to, name string, data []byte, done *Published) error {
	path := filepath.Join(to, name)
	if old, err := r.cfg.FS.ReadFile(path, int64(len(data))+1); err == nil && string(old) == string(data) {
		return nil
	}
	if err := r.cfg.FS.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("copy %s: %w", name, err)
	}
	if err := r.cfg.FS.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("copy %s: %w", name, err)
	}
	done.Files++
	return nil
}

// unpublished refuses to change what devices may have seen already, also if it was
// withdrawn since.
func (r *Repo) unpublished(files []file) error {
	snapshot, err := loadNewest[metadata.SnapshotType](r, Snapshot)
	if err != nil || snapshot == nil {
		return err
	}
	about := snapshot.Signed.Meta[Releases+".json"]
	if about == nil {
		return nil
	}
	for v := int64(1); v <= about.Version; v++ {
		listed, err := load[metadata.TargetsType](r, fileName(Releases, v))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, f := range files {
			was, ok := listed.Signed.Targets[f.path]
			if ok && strings.HasSuffix(f.path, ".json") && string(was.Hashes["sha256"]) != string(sum(f.data)) {
				return errors.New("this version was published already, with other contents: choose a higher one")
			}
		}
	}
	return nil
}
