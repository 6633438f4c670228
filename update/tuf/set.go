package tuf

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Delegation is one step on the way to a target: from "root" to "timestamp",
// "snapshot" and "targets", then from a targets role to one that it delegates to.
type Delegation struct{ Parent, Role string }

// Set is a trusted metadata set: the state machine of the client workflow
// (section 5) over bytes. It goes from root to timestamp, snapshot, targets and
// delegated roles, and never back. After an error it is as it was. It is not safe
// for concurrent use.
type Set struct {
	now     time.Time
	root    *rootFile
	rotated bool
	// Of an earlier Set, and expired perhaps: nothing may be below them.
	oldTimestamp, oldSnapshot *metaFile
	// Valid at now; nil until it is their turn.
	timestamp, snapshot *metaFile
	targets             map[string]*targetsFile // by role
}

// NewSet starts with a root that is trusted already, and the time at which all
// else must be valid (5.1, 5.2). The root may be expired.
func NewSet(root []byte, now time.Time) (*Set, error) {
	if now.IsZero() {
		return nil, errors.New("start metadata set: no reference time")
	}
	r, err := readRoot(root)
	if err != nil {
		return nil, err
	}
	if err := r.roles[Root].verify(r.file); err != nil {
		return nil, err
	}
	return &Set{now: now, root: r, targets: make(map[string]*targetsFile)}, nil
}

// RootVersion is the version of the root that is trusted.
func (s *Set) RootVersion() int64 { return s.root.version }

// Rotated says whether a root since NewSet took a key of timestamp or snapshot
// away. Stored files of both must be forgotten then, so that the version numbers
// which a thief of the key raised are forgotten too (5.3.11).
func (s *Set) Rotated() bool { return s.rotated }

// UpdateRoot takes the next root: the version after the trusted one, signed by
// the keys of both (5.3.4, 5.3.5). It may be expired if another one follows.
func (s *Set) UpdateRoot(data []byte) error {
	if s.timestamp != nil || s.oldTimestamp != nil {
		return turn(Root)
	}
	next, err := readRoot(data)
	if err != nil {
		return err
	}
	for _, r := range []*rootFile{s.root, next} {
		if err := r.roles[Root].verify(next.file); err != nil {
			return err
		}
	}
	if next.version-1 != s.root.version {
		return refuse(Root, "version", "it is version %d, the trusted one is %d", next.version, s.root.version)
	}
	for _, role := range []string{Timestamp, Snapshot} {
		s.rotated = s.rotated || next.roles[role].lacks(s.root.roles[role])
	}
	s.root = next
	return nil
}

// Load takes a file that an earlier Set took. It returns true if no update of it
// is needed. A timestamp and a snapshot, even if expired, are the floor of the
// next ones; a file that no longer verifies is left aside.
func (s *Set) Load(d Delegation, stored []byte) (final bool) {
	switch d.Role {
	case Timestamp:
		if s.timestamp == nil {
			s.oldTimestamp, _ = s.readMeta(Timestamp, stored, MaxTimestamp)
		}
		return false
	case Snapshot:
		if s.timestamp == nil || s.snapshot != nil {
			return false
		}
		s.oldSnapshot, _ = s.readMeta(Snapshot, stored, MaxSnapshot)
	}
	_, err := s.Update(d, stored)
	return err == nil
}

// Update takes a file of the repository. It returns false, without an error, for a
// timestamp of the version that was loaded: that one stays, whatever data holds.
func (s *Set) Update(d Delegation, data []byte) (taken bool, err error) {
	switch d.Role {
	case Timestamp:
		return s.updateTimestamp(data)
	case Snapshot:
		return true, s.updateSnapshot(data)
	}
	return true, s.updateTargets(d, data)
}

// updateTimestamp is section 5.4.
func (s *Set) updateTimestamp(data []byte) (taken bool, err error) {
	if s.timestamp != nil {
		return false, turn(Timestamp)
	}
	if err := s.root.current(s.now); err != nil { // 5.3.10
		return false, err
	}
	next, err := s.readMeta(Timestamp, data, MaxTimestamp) // 5.4.2
	if err != nil {
		return false, err
	}
	if old := s.oldTimestamp; old != nil {
		if next.version < old.version { // 5.4.3.1
			return false, rollback(Timestamp, Timestamp, next.version, old.version)
		}
		if next.version == old.version {
			next = old
		}
		if v, was := next.meta[snapshotFile].version, old.meta[snapshotFile].version; v < was { // 5.4.3.2
			return false, rollback(Timestamp, snapshotFile, v, was)
		}
	}
	if err := next.current(s.now); err != nil { // 5.4.4
		return false, err
	}
	s.timestamp = next
	return next != s.oldTimestamp, nil
}

// updateSnapshot is section 5.5.
func (s *Set) updateSnapshot(data []byte) error {
	if s.timestamp == nil || s.snapshot != nil {
		return turn(Snapshot)
	}
	about := s.timestamp.meta[snapshotFile]
	if err := about.content.check(Snapshot, data); err != nil { // 5.5.2
		return err
	}
	next, err := s.readMeta(Snapshot, data, MaxSnapshot) // 5.5.3
	if err != nil {
		return err
	}
	if next.version != about.version { // 5.5.4
		return refuse(Snapshot, "version", "it is version %d, the timestamp lists %d", next.version, about.version)
	}
	if s.oldSnapshot != nil {
		for name, old := range s.oldSnapshot.meta { // 5.5.5; a file that is missing has version 0
			if v := next.meta[name].version; v < old.version {
				return rollback(Snapshot, name, v, old.version)
			}
		}
	}
	if err := next.current(s.now); err != nil { // 5.5.6
		return err
	}
	s.snapshot = next
	return nil
}

// updateTargets is section 5.6.
func (s *Set) updateTargets(d Delegation, data []byte) error {
	about, err := s.listed(d.Role)
	if err != nil {
		return err
	}
	if err := about.content.check(d.Role, data); err != nil { // 5.6.2
		return err
	}
	next, err := readTargets(d.Role, data)
	if err != nil {
		return err
	}
	if err := s.verify(d, next.file); err != nil { // 5.6.3
		return err
	}
	if next.version != about.version { // 5.6.4
		return refuse(d.Role, "version", "it is version %d, the snapshot lists %d", next.version, about.version)
	}
	if err := next.current(s.now); err != nil { // 5.6.5
		return err
	}
	s.targets[d.Role] = next
	return nil
}

// File names the file of a role that the repository is to be asked for next, and
// how many bytes it may have. Names are relative URLs, escaped.
func (s *Set) File(role string) (name string, limit int64, err error) {
	var about meta
	switch {
	case role == Root:
		return strconv.FormatInt(s.root.version+1, 10) + ".root.json", MaxRoot, nil
	case role == Timestamp:
		return "timestamp.json", MaxTimestamp, nil
	case role != Snapshot:
		about, err = s.listed(role)
		limit = MaxTargets
	case s.timestamp == nil:
		err = turn(role)
	default:
		about, limit = s.timestamp.meta[snapshotFile], MaxSnapshot
	}
	if about.content.length >= 0 {
		limit = min(limit, about.content.length)
	}
	name = fileName(role)
	if s.root.consistent { // section 6.2
		name = strconv.FormatInt(about.version, 10) + "." + name
	}
	return name, limit, err
}

// listed is what the snapshot says of a targets role.
func (s *Set) listed(role string) (meta, error) {
	if s.snapshot == nil {
		return meta{}, turn(role)
	}
	m, ok := s.snapshot.meta[role+".json"]
	if !ok {
		return meta{}, refuse(role, "version", "the snapshot does not list it")
	}
	return m, nil
}

// readMeta reads a timestamp or snapshot that the trusted root's keys signed.
func (s *Set) readMeta(role string, data []byte, limit int64) (*metaFile, error) {
	f, err := readMetaFile(role, data, limit)
	if err != nil {
		return nil, err
	}
	if err := s.root.roles[role].verify(f.file); err != nil {
		return nil, err
	}
	return f, nil
}

// verify checks f against the signatures that d asks for.
func (s *Set) verify(d Delegation, f *file) error {
	if d == (Delegation{Root, Targets}) {
		return s.root.roles[Targets].verify(f)
	}
	if parent, ok := s.targets[d.Parent]; ok {
		for _, child := range parent.delegations {
			if child.name == d.Role {
				return child.signers.verify(f)
			}
		}
	}
	return refuse(d.Role, "delegation", "%s does not delegate to it", d.Parent)
}

func rollback(role, what string, version, old int64) error {
	return refuse(role, "rollback", "%.80q goes from version %d to %d", what, old, version)
}

func turn(role string) error { return fmt.Errorf("update %s: it is not its turn", role) }
