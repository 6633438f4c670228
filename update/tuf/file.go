package tuf

import (
	"strings"
	"time"
)

// file is what all metadata files have in common (section 4.3): read, within
// limits, and not verified yet.
type file struct {
	role       string
	version    int64
	expires    time.Time
	signed     fields
	message    []byte            // canonical form of signed
	signatures map[string]string // by key id, hex
}

// open reads a file of role, which must be of the given type and have no more
// than limit bytes.
func open(role, kind string, data []byte, limit int64) (*file, error) {
	if int64(len(data)) > limit {
		return nil, refuse(role, "limit", "it has %d bytes, at most %d are allowed", len(data), limit)
	}
	tree, err := decode(data)
	if err != nil {
		return nil, refuse(role, "format", "%v", err)
	}
	top := fields{members: tree, at: role, err: new(error)}
	f := &file{role: role, signed: top.object("signed"), signatures: make(map[string]string)}
	got := f.signed.text("_type")
	if *top.err == nil && got != kind {
		return nil, refuse(role, "type", "it is of type %.20q, not %q", got, kind)
	}
	f.readHeader()
	for _, sig := range top.objects("signatures", MaxSignatures) {
		id := sig.text("keyid")
		if _, twice := f.signatures[id]; twice {
			sig.fault("keyid", "signs a second time")
		}
		f.signatures[id] = sig.text("sig")
	}
	if *top.err != nil {
		return nil, refuse(role, "format", "%v", *top.err)
	}
	if f.message, err = canonical(nil, f.signed.members); err != nil {
		return nil, refuse(role, "format", "%v", err)
	}
	return f, nil
}

func (f *file) readHeader() {
	if major, _, _ := strings.Cut(f.signed.text("spec_version"), "."); major != "1" {
		f.signed.fault("spec_version", "is not 1.x")
	}
	f.version = f.signed.integer("version", 1)
	text := f.signed.text("expires")
	expires, err := time.Parse(time.DateOnly+"T15:04:05Z", text)
	// Parse takes fractions of a second where the layout has none.
	if err != nil || expires.Format(time.DateOnly+"T15:04:05Z") != text {
		f.signed.fault("expires", "%.40q is not of the form YYYY-MM-DDTHH:MM:SSZ", text)
	}
	f.expires = expires
}

// done returns the first fault that reading the members found, and lets them go.
func (f *file) done() error {
	err := *f.signed.err
	f.signed = fields{}
	if err != nil {
		return refuse(f.role, "format", "%v", err)
	}
	return nil
}

// current refuses a file that is expired at now (5.3.10, 5.4.4, 5.5.6, 5.6.5).
func (f *file) current(now time.Time) error {
	if !f.expires.After(now) {
		return refuse(f.role, "expired", "version %d was good until %s, it is %s", f.version,
			f.expires.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// signers is who may sign for a role.
type signers struct {
	keys      map[string]key // by id
	threshold int64
}

// readKeys reads the keys object of a root or of delegations.
func readKeys(f fields) map[string]key {
	keys := make(map[string]key)
	all := f.object("keys")
	if len(all.members) > MaxKeys {
		f.fault("keys", "holds %d keys, at most %d are allowed", len(all.members), MaxKeys)
		return nil
	}
	for id := range all.members {
		keys[id] = readKey(all.object(id))
	}
	return keys
}

// readSigners reads keyids and threshold of a role. An id without a key counts
// for nothing, so that a threshold above the number of keys is never met.
func readSigners(f fields, keys map[string]key) signers {
	s := signers{keys: make(map[string]key), threshold: f.integer("threshold", 1)}
	for _, id := range f.texts("keyids", MaxKeys) {
		if k, ok := keys[id]; ok {
			s.keys[id] = k
		}
	}
	return s
}

// verify refuses a file that fewer than threshold different keys signed. What
// other signatures the file carries doesn't matter.
func (s signers) verify(f *file) error {
	signed := make(map[string]bool)
	for id, signature := range f.signatures {
		if k, ok := s.keys[id]; ok && !signed[k.material] && k.verifies(f.message, signature) {
			signed[k.material] = true
		}
	}
	if int64(len(signed)) < s.threshold {
		return refuse(f.role, "signature", "%d of the role's keys signed version %d, %d must", len(signed), f.version, s.threshold)
	}
	return nil
}

// lacks says whether a key of old is no longer in s.
func (s signers) lacks(old signers) bool {
	have := make(map[string]bool)
	for _, k := range s.keys {
		have[k.material] = true
	}
	for _, k := range old.keys {
		if !have[k.material] {
			return true
		}
	}
	return false
}
