package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Signed is what Sign or Publish did with one role.
type Signed struct {
	Role    string    `json:"role"`
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
	Changed bool      `json:"changed"` // there is a new version
	// Overdue says that half of the file's life is gone and its key is not here.
	Overdue bool `json:"overdue,omitempty"`
}

// Sign takes the draft into the files of targets and releases, and signs those of
// them that changed, whose keys changed, or half of whose life is gone. Only the
// keys of what is signed need to be here; a role whose keys are away stays in the draft,
// and is an error beside what was done. A Sign that was cut short may be done again.
func (r *Repo) Sign() ([]Signed, error) {
	d, err := r.loadDraft()
	if err != nil {
		return nil, err
	}
	roles, err := r.roleKeys()
	if err != nil {
		return nil, err
	}
	var done []Signed
	var faults []error
	for _, role := range []string{Targets, Releases} {
		s, err := r.signTargets(role, d.Files[role], roles[role])
		if err != nil {
			faults = append(faults, err)
			continue
		}
		done = append(done, s)
		delete(d.Files, role)
	}
	return done, errors.Join(append(faults, r.saveDraft(d))...)
}

func (r *Repo) signTargets(role string, files map[string]entry, by *metadata.Role) (Signed, error) {
	m, err := loadNewest[metadata.TargetsType](r, role)
	if err != nil || m == nil {
		return Signed{}, errors.Join(err, missing(m == nil, role))
	}
	changed := false
	for name, e := range files {
		changed = merge(m.Signed.Targets, name, e) || changed
	}
	valid, err := r.signedBy(role, m)
	if err != nil {
		return Signed{}, err
	}
	before := Signed{Role: role, Version: m.Signed.Version, Expires: m.Signed.Expires}
	due := r.due(role, m.Signed.Expires)
	if !changed && valid && !due {
		return before, nil
	}
	m.Signed.Version++
	m.Signed.Expires = r.expiry(role)
	err = save(r, m, role, m.Signed.Version, by)
	if errors.Is(err, errUnsigned) && !changed && valid {
		before.Overdue = true
		return before, nil
	}
	return Signed{Role: role, Version: m.Signed.Version, Expires: m.Signed.Expires, Changed: true}, err
}

// merge returns whether it changed anything.
func merge(targets map[string]*metadata.TargetFiles, name string, e entry) bool {
	was, had := targets[name]
	if e.Length == 0 {
		delete(targets, name)
		return had
	}
	if had {
		if old, err := fromTUF(was); err == nil && old.same(e) {
			return false
		}
	}
	targets[name] = e.toTUF()
	return true
}

// same compares the custom objects as they are signed: in canonical form.
func (e entry) same(o entry) bool {
	a, errA := canonical(e.Custom)
	b, errB := canonical(o.Custom)
	return e.Length == o.Length && e.SHA256 == o.SHA256 && errA == nil && errB == nil && bytes.Equal(a, b)
}

func canonical(custom json.RawMessage) ([]byte, error) {
	if len(custom) == 0 {
		return nil, nil
	}
	return cjson.EncodeCanonical(custom)
}

// signedBy says whether the keys that are in force now signed m.
func (r *Repo) signedBy(role string, m any) (bool, error) {
	if role == Releases {
		targets, err := loadNewest[metadata.TargetsType](r, Targets)
		if err != nil {
			return false, err
		}
		return targets.VerifyDelegate(role, m) == nil, nil
	}
	root, err := loadNewest[metadata.RootType](r, Root)
	if err != nil {
		return false, err
	}
	return root.VerifyDelegate(role, m) == nil, nil
}

// list signs the snapshot and the timestamp that belong to the newest files, where
// there is a need.
func (r *Repo) list() ([]Signed, error) {
	roles, err := r.roleKeys()
	if err != nil {
		return nil, err
	}
	about := make(map[string]*metadata.MetaFiles)
	for _, role := range []string{Targets, Releases} {
		if about[role+".json"], err = r.about(role); err != nil {
			return nil, err
		}
	}
	snapshot, err := loadNewest[metadata.SnapshotType](r, Snapshot)
	if err != nil {
		return nil, err
	}
	if snapshot == nil {
		snapshot = metadata.Snapshot(time.Time{})
		snapshot.Signed.Version = 0
	}
	first, err := listed(r, Snapshot, snapshot, &snapshot.Signed.Version, &snapshot.Signed.Expires, &snapshot.Signed.Meta, about, roles[Snapshot])
	if err != nil {
		return nil, err
	}
	info, err := r.about(Snapshot)
	if err != nil {
		return nil, err
	}
	timestamp, err := loadNewest[metadata.TimestampType](r, Timestamp)
	if err != nil {
		return nil, err
	}
	if timestamp == nil {
		timestamp = metadata.Timestamp(time.Time{})
		timestamp.Signed.Version = 0
	}
	second, err := listed(r, Timestamp, timestamp, &timestamp.Signed.Version, &timestamp.Signed.Expires, &timestamp.Signed.Meta,
		map[string]*metadata.MetaFiles{"snapshot.json": info}, roles[Timestamp])
	return []Signed{first, second}, err
}

// listed signs m, a snapshot or timestamp whose fields are given, if it does not list
// about, is signed by other keys, or has lived half of its life.
func listed[T metadata.Roles](r *Repo, role string, m *metadata.Metadata[T], version *int64, expires *time.Time,
	meta *map[string]*metadata.MetaFiles, about map[string]*metadata.MetaFiles, by *metadata.Role,
) (Signed, error) {
	valid, err := r.signedBy(role, m)
	if err != nil {
		return Signed{}, err
	}
	if valid && sameMeta(*meta, about) && !r.due(role, *expires) {
		return Signed{Role: role, Version: *version, Expires: *expires}, nil
	}
	*version++
	*expires, *meta = r.expiry(role), about
	return Signed{Role: role, Version: *version, Expires: *expires, Changed: true}, save(r, m, role, *version, by)
}

func sameMeta(a, b map[string]*metadata.MetaFiles) bool {
	if len(a) != len(b) {
		return false
	}
	for name, x := range a {
		y, ok := b[name]
		if !ok || x.Version != y.Version || x.Length != y.Length || !bytes.Equal(x.Hashes["sha256"], y.Hashes["sha256"]) {
			return false
		}
	}
	return true
}

// about is what a list says of a role's newest file. Lengths and hashes let a device
// refuse a wrong file before it reads it.
func (r *Repo) about(role string) (*metadata.MetaFiles, error) {
	data, version, err := r.read(role)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", role, err)
	}
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum(data)}}, nil
}
