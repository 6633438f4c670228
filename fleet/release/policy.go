package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/update/release"
)

// The targets that are documents of the owner.
const (
	attestPath    = "policy/attest.json"
	operatorsPath = "policy/operators.json"
	fleetPath     = "trust/fleet.json"
)

// PolicyOptions are the owner's documents as bytes. All may be left out but the
// first time Fleet or Attest.
type PolicyOptions struct {
	Fleet string // name of the fleet, where there is no attestation policy yet
	// Attest is an attestation policy to start from in place of the one in the
	// repository: rules, exceptions, releases that were not built here.
	Attest    []byte
	List      func(attest.Digest) ([]byte, error) // gives the lists of files that Attest names and the repository lacks
	Operators []byte                              // policy/operators.json
	Trust     []byte                              // trust/fleet.json
}

// Policy puts the owner's documents into the draft and returns the attestation
// policy: the one given, or the one in the repository, with the reference values of
// every release that is signed or drafted. Nobody types a reference value. The
// same inputs give the same document; its time changes only if anything else does.
func (r *Repo) Policy(o PolicyOptions) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("write policy documents: %w", err) }
	before, err := r.document(attestPath)
	if err != nil {
		return fail(err)
	}
	data, err := r.attestPolicy(o, before)
	if err != nil {
		return fail(err)
	}
	files, err := r.lists(data, o.List)
	if err != nil {
		return fail(err)
	}
	files = append(files, file{path: attestPath, data: data})
	if o.Operators != nil {
		if _, err := policy.ParseOperators(o.Operators); err != nil {
			return fail(err)
		}
		files = append(files, file{path: operatorsPath, data: o.Operators})
	}
	if o.Trust != nil {
		if _, err := policy.ParseFleet(o.Trust); err != nil {
			return fail(err)
		}
		files = append(files, file{path: fleetPath, data: o.Trust})
	}
	if err := r.stage(Targets, files...); err != nil {
		return fail(err)
	}
	return data, nil
}

// document returns the newest content of a target of the role targets, nil if there
// is none.
func (r *Repo) document(path string) ([]byte, error) {
	all, err := r.entries(Targets)
	if err != nil {
		return nil, err
	}
	e, ok := all[path]
	if !ok {
		return nil, nil
	}
	if e.Length > maxDocument {
		return nil, fmt.Errorf("read target %s: %d bytes, at most %d are allowed", path, e.Length, maxDocument)
	}
	return r.content(path, e)
}

func (r *Repo) attestPolicy(o PolicyOptions, before []byte) ([]byte, error) {
	p := &attest.Policy{Version: 1, Fleet: o.Fleet}
	var err error
	switch {
	case o.Attest != nil:
		p, err = attest.ParsePolicy(o.Attest)
	case before != nil:
		p, err = attest.ParsePolicy(before)
	case o.Fleet == "":
		return nil, errors.New("there is no attestation policy yet: name the fleet, or give one to start from")
	}
	if err != nil {
		return nil, err
	}
	if o.Fleet != "" && p.Fleet != o.Fleet {
		return nil, fmt.Errorf("the attestation policy is for fleet %q, not %q", p.Fleet, o.Fleet)
	}
	if p.Releases, err = r.references(p.Releases); err != nil {
		return nil, err
	}
	p.Issued = r.cfg.Now().UTC().Truncate(1e9)
	if before != nil {
		if old, err := attest.ParsePolicy(before); err == nil {
			trial := *p
			trial.Issued = old.Issued
			if data, err := encodePolicy(&trial); err == nil && bytes.Equal(data, before) {
				return before, nil
			}
		}
	}
	return encodePolicy(p)
}

// lists are those of a policy that the repository lacks. All of them are read: a policy
// that no server could take in is not published.
func (r *Repo) lists(policy []byte, read func(attest.Digest) ([]byte, error)) ([]file, error) {
	p, err := attest.ParsePolicy(policy)
	if err != nil {
		return nil, err
	}
	all, err := r.entries(Targets)
	if err != nil {
		return nil, err
	}
	var missing []file
	err = p.ReadLists(func(list attest.Digest) ([]byte, error) {
		path := "policy/" + attest.IMAList(list)
		if e, ok := all[path]; ok {
			return r.content(path, e)
		}
		if read == nil {
			return nil, errors.New("it is not in the repository: give the policy that names it again")
		}
		data, err := read(list)
		if err == nil {
			missing = append(missing, file{path: path, data: data})
		}
		return data, err
	}, nil)
	return missing, err
}

// encodePolicy writes what ParsePolicy reads, and nothing else.
func encodePolicy(p *attest.Policy) ([]byte, error) {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode attestation policy: %w", err)
	}
	data = append(data, '\n')
	_, err = attest.ParsePolicy(data)
	return data, err
}

// references puts the repository's own releases over those of the same name in list.
// A version that is in two channels must be the same one.
func (r *Repo) references(list []attest.Release) ([]attest.Release, error) {
	list = append([]attest.Release{}, list...) // in JSON a list, also if it is empty
	own, err := r.List()
	if err != nil {
		return nil, err
	}
	seen := make(map[string]string) // in one spelling: a draft's is indented
	for _, rel := range own {
		some, err := referencesOf(rel)
		if err != nil {
			return nil, fmt.Errorf("read reference values of %s: %w", rel.Name(), err)
		}
		if len(some) == 0 {
			continue
		}
		name := some[0].Name()
		if other, twice := seen[name]; twice && other != compact(rel.Reference) {
			return nil, fmt.Errorf("%s is in two channels with different boot files: give one another version", name)
		}
		seen[name] = compact(rel.Reference)
		same := func(one attest.Release) bool { return one.Name() == name }
		at := slices.IndexFunc(list, same)
		if at < 0 {
			at = len(list)
		}
		list = slices.Insert(slices.DeleteFunc(list, same), at, some...)
	}
	return list, nil
}

// referencesOf reads the reference values of a release: none, or for each slot that
// its images are for. With those of one slot left out, gateways would turn red there.
func referencesOf(rel *release.Release) ([]attest.Release, error) {
	text := compact(rel.Reference)
	if text == "" {
		return nil, nil
	}
	if text[0] == '{' {
		text = "[" + text + "]"
	}
	var list []attest.Release
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	want, have := []string{""}, []string{}
	if slices.ContainsFunc(rel.Images, func(i release.Image) bool { return i.For != "" }) {
		want = []string{"a", "b"} // a kind has both
	}
	for _, one := range list {
		if one.Product != rel.Product || one.Version != rel.Version {
			return nil, fmt.Errorf("they are of %s", one.Name())
		}
		have = append(have, one.For)
	}
	slices.Sort(have)
	if !slices.Equal(want, have) {
		return nil, fmt.Errorf("its images are for slots %q, the values for %q", want, have)
	}
	return list, nil
}

func compact(object json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Compact(&b, object); err != nil {
		return string(object)
	}
	return b.String()
}
