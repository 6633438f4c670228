package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"
)

// delegation says which targets role speaks for which paths (section 4.5).
type delegation struct {
	name        string
	signers     signers
	terminating bool
	patterns    []string
	prefixes    []string // of the hex SHA-256 of a path
}

func readDelegations(f fields) []delegation {
	if f.has("succinct_roles") {
		f.fault("succinct_roles", "is not supported")
		return nil
	}
	keys, seen := readKeys(f), make(map[string]bool)
	var all []delegation
	if !f.has("roles") { // which is how go-tuf writes none
		return nil
	}
	for _, role := range f.objects("roles", MaxRoles) {
		d := readDelegation(role, keys)
		if seen[d.name] {
			role.fault("name", "%.64q is there a second time", d.name)
		}
		seen[d.name] = true
		all = append(all, d)
	}
	return all
}

func readDelegation(f fields, keys map[string]key) delegation {
	d := delegation{name: f.text("name"), signers: readSigners(f, keys), terminating: f.flag("terminating")}
	switch d.name {
	case "", Root, Timestamp, Snapshot, Targets:
		f.fault("name", "%q is no name of a delegated role", d.name)
	}
	if len(d.name) > MaxRoleName {
		f.fault("name", "has %d bytes, at most %d are allowed", len(d.name), MaxRoleName)
	}
	if f.has("paths") {
		d.patterns = f.texts("paths", MaxPatterns)
	}
	if f.has("path_hash_prefixes") {
		d.prefixes = f.texts("path_hash_prefixes", MaxPatterns)
	}
	if f.has("paths") && f.has("path_hash_prefixes") {
		f.fault("paths", "stands beside path_hash_prefixes")
	}
	for _, p := range d.patterns {
		if _, err := path.Match(p, ""); err != nil || len(p) > MaxTargetPath {
			f.fault("paths", "%.80q is no pattern", p)
		}
	}
	for _, p := range d.prefixes {
		if p == "" || len(p) > 2*sha256.Size || strings.Trim(p, "0123456789abcdef") != "" {
			f.fault("path_hash_prefixes", "%.80q is no beginning of a SHA-256 value", p)
		}
	}
	return d
}

// covers says whether the role may speak for the target. In a pattern * and ? do
// not match a slash.
func (d delegation) covers(target string) bool {
	for _, p := range d.patterns {
		if ok, err := path.Match(p, target); ok && err == nil {
			return true
		}
	}
	sum := sha256.Sum256([]byte(target))
	for _, p := range d.prefixes {
		if strings.HasPrefix(hex.EncodeToString(sum[:]), p) {
			return true
		}
	}
	return false
}

// delegates returns the delegations that path falls under, the first one last, as
// a stack wants them, and whether the search ends with them.
func (f *targetsFile) delegates(path string) (stack []Delegation, final bool) {
	for _, d := range f.delegations {
		if !d.covers(path) {
			continue
		}
		stack = append(stack, Delegation{Parent: f.role, Role: d.name})
		if d.terminating {
			final = true
			break
		}
	}
	slices.Reverse(stack)
	return stack, final
}
