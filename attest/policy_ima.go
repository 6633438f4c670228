package attest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// IMAPolicy says which files the gateways of a fleet may read and run: those of some
// lists, and those that one of some keys signed. A list may be long, so the policy has
// only its digest.
type IMAPolicy struct {
	Lists []Digest `json:"lists,omitempty"` // SHA-256 of files as sha256sum, sha384sum or sha512sum writes them; each lies beside the policy, in the folder ima, with its digest as name
	Keys  []string `json:"keys,omitempty"`  // public keys or certificates in PEM, one each: P-256, P-384 or RSA of 2048 to 4096 bits
}

// IMAList is where a list lies, from the folder of its policy on.
func IMAList(list Digest) string { return "ima/" + list.String() }

// check refuses what could not be compiled, but for the lists, which are elsewhere.
func (p *IMAPolicy) check() error {
	switch {
	case p == nil:
		return nil
	case len(p.Lists) == 0 && len(p.Keys) == 0:
		return errors.New("ima: it needs lists, keys or both: else no file may run")
	case len(p.Lists) > maxIMALists || len(p.Keys) > maxIMAKeys:
		return fmt.Errorf("ima: %d lists and %d keys, at most %d and %d are allowed", len(p.Lists), len(p.Keys), maxIMALists, maxIMAKeys)
	}
	for i, list := range p.Lists {
		if list.IsZero() || slices.Contains(p.Lists[:i], list) {
			return fmt.Errorf("ima: list %d has no digest, or occurs twice", i+1)
		}
	}
	for i, key := range p.Keys {
		if _, err := readFileKey(key); err != nil {
			return fmt.Errorf("ima: key %d: %w", i+1, err)
		}
	}
	return nil
}

// digest names what is compiled of p.
func (p *IMAPolicy) digest() Digest { return sha256.Sum256(fmt.Appendf(nil, "%v %q", p.Lists, p.Keys)) }

// ReadLists compiles p.IMA: read gives a list by its digest, and what it gives is held
// against that. A policy that names lists or keys judges only after it. What last, which
// may be nil, compiled of the same lists and keys is shared.
func (p *Policy) ReadLists(read func(list Digest) ([]byte, error), last *Policy) error {
	if p.IMA == nil {
		return nil
	}
	digest := p.IMA.digest()
	if last != nil && last.files != nil && last.files.digest == digest {
		p.files = last.files
		return nil
	}
	files, err := newIMAReference(p.IMA, digest, read)
	if err != nil {
		return fmt.Errorf("read lists of the attestation policy: %w", err)
	}
	p.files = files
	return nil
}

// Files counts the files of the lists, 0 before ReadLists.
func (p *Policy) Files() int {
	if p.files == nil {
		return 0
	}
	return len(p.files.files)
}
