// Package tuf is the client of a TUF 1.0 repository (specification 1.0.34): it
// decides which signed files a device obeys.
//
// Its promise: a Target comes only out of metadata that the pinned root, or a
// root that follows from it step by step, has made valid at one fixed moment;
// what does not verify is neither used nor stored; and metadata that is merely
// old never bars the way to newer.
//
// Set is the pure part: bytes in, verdict out. Client adds the order in which
// files are asked for and kept. How they come is a Fetcher's affair: the HTTP one
// is in update/tuf/fetch, so that this package links no network code.
//
// Not supported: succinct_roles (such a file is refused), mirrors, and key types
// other than Ed25519, ECDSA P-256 and RSA-PSS, which count for nothing.
package tuf

import (
	"errors"
	"fmt"
)

// The top-level roles. No delegated role may bear one of these names.
const (
	Root      = "root"
	Timestamp = "timestamp"
	Snapshot  = "snapshot"
	Targets   = "targets"

	snapshotFile = Snapshot + ".json"
)

// ErrNoFile is what a Fetcher returns, wrapped or not, where the repository has
// no such file.
var ErrNoFile = errors.New("the repository has no such file")

// ErrNoTarget says that no role that may speak for the path names it.
var ErrNoTarget = errors.New("no such target")

// Refusal says why a file was not accepted.
type Refusal struct {
	Role string // whose file; a target's path for a target
	// Rule is a constant word: format, limit, type, signature, version, rollback,
	// expired, length, hash, name, delegation.
	Rule string
	Text string // a sentence
}

func (r *Refusal) Error() string { return r.Role + " refused (" + r.Rule + "): " + r.Text }

func refuse(role, rule, format string, args ...any) error {
	return &Refusal{Role: role, Rule: rule, Text: fmt.Sprintf(format, args...)}
}

var _ error = (*Refusal)(nil)
