// Package tuftest is a TUF repository in memory, for tests: it is authored with
// go-tuf, and it can be made to lie.
//
// Its promise: what it serves is what go-tuf would publish, but for what a test
// asked to be wrong. It is linked into nothing that ships.
package tuftest

import (
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Epoch is the time at which a Repo begins.
func Epoch() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC) }

// Repo is a repository. Change its metadata, then Publish. It is not safe for
// concurrent use, except for reading what is served.
type Repo struct {
	tb        testing.TB
	Root      *metadata.Metadata[metadata.RootType]
	Timestamp *metadata.Metadata[metadata.TimestampType]
	Snapshot  *metadata.Metadata[metadata.SnapshotType]
	Targets   map[string]*metadata.Metadata[metadata.TargetsType] // by role
	Signers   map[string][]Signer                                 // by role
	// Hashes makes snapshot and timestamp list lengths and hashes too.
	Hashes bool
	// Edit, if set, changes the JSON of a file before it is signed.
	Edit func(role string, signed map[string]any)
	// Served holds what is published, by role: the first is asked for as version 1,
	// whatever it says of itself.
	Served map[string][][]byte
	Files  map[string][]byte // content of targets, by path
	Asked  []string          // names of metadata files that were asked for
	// AskedTargets are the names of target files that were asked for.
	AskedTargets []string
}

// New returns a repository with version 1 of everything, one Ed25519 key for each
// role, consistent snapshots, good for 30 days from Epoch.
func New(tb testing.TB) *Repo {
	tb.Helper()
	until := Epoch().AddDate(0, 0, 30)
	r := &Repo{
		tb: tb, Root: metadata.Root(until), Timestamp: metadata.Timestamp(until), Snapshot: metadata.Snapshot(until),
		Targets: map[string]*metadata.Metadata[metadata.TargetsType]{"targets": metadata.Targets(until)},
		Signers: make(map[string][]Signer), Served: make(map[string][][]byte), Files: make(map[string][]byte),
	}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		r.AddKey(role, NewSigner(tb, "ed25519"))
	}
	r.Publish("targets", "snapshot", "timestamp", "root")
	return r
}

// AddKey lets a key sign for a top-level role.
func (r *Repo) AddKey(role string, s Signer) {
	r.tb.Helper()
	must(r.tb, r.Root.Signed.AddKey(s.Key, role))
	r.Signers[role] = append(r.Signers[role], s)
}

// SetKeys replaces the keys of a top-level role, and who signs for it.
func (r *Repo) SetKeys(role string, threshold int, keys, sign []Signer) {
	r.tb.Helper()
	r.Root.Signed.Roles[role].KeyIDs = nil
	r.Root.Signed.Roles[role].Threshold = threshold
	for _, s := range keys {
		r.AddKey(role, s)
	}
	r.Signers[role] = sign
}

// Rotate gives a top-level role one new key in place of those it had.
func (r *Repo) Rotate(role string) {
	r.tb.Helper()
	s := []Signer{NewSigner(r.tb, "ed25519")}
	r.SetKeys(role, 1, s, s)
}

// Delegate makes parent delegate to d, with a new key if d names none. A role that
// is there already keeps its file.
func (r *Repo) Delegate(parent string, d metadata.DelegatedRole) {
	r.tb.Helper()
	file := &r.Targets[parent].Signed
	if file.Delegations == nil {
		file.Delegations = &metadata.Delegations{Keys: make(map[string]*metadata.Key)}
	}
	if d.Threshold == 0 {
		d.Threshold = 1
	}
	if d.KeyIDs == nil {
		s := NewSigner(r.tb, "ed25519")
		file.Delegations.Keys[s.ID] = s.Key
		d.KeyIDs = []string{s.ID}
		r.Signers[d.Name] = append(r.Signers[d.Name], s)
	}
	file.Delegations.Roles = append(file.Delegations.Roles, d)
	if r.Targets[d.Name] == nil {
		r.Targets[d.Name] = metadata.Targets(Epoch().AddDate(0, 0, 30))
	}
}

// AddTarget puts a file into a targets role.
func (r *Repo) AddTarget(role, path string, data []byte) {
	r.tb.Helper()
	sum := sha256.Sum256(data)
	r.Targets[role].Signed.Targets[path] = &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	r.Files[path] = data
}

// Publish signs roles and serves them, each with the next version if it was
// published before. Targets roles are entered in the snapshot, the snapshot in the
// timestamp, as soon as they are published: name them in that order.
func (r *Repo) Publish(roles ...string) {
	r.tb.Helper()
	for _, role := range roles {
		again := len(r.Served[role]) > 0
		data := r.sign(role, again)
		r.Served[role] = append(r.Served[role], data)
		info := &metadata.MetaFiles{Version: *r.version(role)}
		if r.Hashes {
			sum := sha256.Sum256(data)
			info.Length, info.Hashes = int64(len(data)), metadata.Hashes{"sha256": sum[:]}
		}
		switch role {
		case "root", "timestamp":
		case "snapshot":
			r.Timestamp.Signed.Meta["snapshot.json"] = info
		default:
			r.Snapshot.Signed.Meta[role+".json"] = info
		}
	}
}

// PublishAll publishes every role in the right order, root last.
func (r *Repo) PublishAll() {
	r.tb.Helper()
	roles := make([]string, 0, len(r.Targets)+3)
	for role := range r.Targets {
		roles = append(roles, role)
	}
	slices.Sort(roles)
	r.Publish(append(roles, "snapshot", "timestamp", "root")...)
}

// SetVersion sets the version that the role's next publication will have.
func (r *Repo) SetVersion(role string, version int64) { *r.version(role) = version - 1 }

func (r *Repo) version(role string) *int64 {
	switch role {
	case "root":
		return &r.Root.Signed.Version
	case "timestamp":
		return &r.Timestamp.Signed.Version
	case "snapshot":
		return &r.Snapshot.Signed.Version
	}
	return &r.Targets[role].Signed.Version
}
