package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

const (
	minIssueShare = 0.8
	issueRounds   = 1500
	issueAtOnce   = 64 // requests that wait for one commit together
)

// issuing compares certificates that were issued and journalled with the
// signatures alone that they need, both on one processor.
func issuing(ctx context.Context) (figure, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	dir, err := os.MkdirTemp("", "gwbench")
	if err != nil {
		return figure{}, fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	now := time.Now()
	if err := ca.Init(filepath.Join(dir, "ca"), "rig", now); err != nil {
		return figure{}, err
	}
	authority, err := ca.Open(filepath.Join(dir, "ca"))
	if err != nil {
		return figure{}, err
	}
	store, err := registry.OpenSQLite(filepath.Join(dir, "registry.db"))
	if err != nil {
		return figure{}, err
	}
	defer store.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return figure{}, err
	}
	const identity = "gw-aaaaaaaaaaaaaaaa"
	issue := func(journal bool) func() error {
		return func() error {
			leaf, _, err := authority.Issue(ca.Full, identity, key.Public(), now, time.Hour)
			if err != nil || !journal {
				return err
			}
			spki := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
			return store.AddCertificate(ctx, registry.Certificate{
				Serial: leaf.SerialNumber.Text(16), Identity: identity, Profile: string(ca.Full), SPKI: hex.EncodeToString(spki[:]),
				NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, IssuedAt: now, DER: leaf.Raw,
			}, "")
		}
	}
	floor, err := rate(issue(false))
	if err != nil {
		return figure{}, err
	}
	ours, err := rate(issue(true))
	if err != nil {
		return figure{}, err
	}
	return figure{text: fmt.Sprintf("%.2fx of the floor (%.0f/s of %.0f/s)", ours/floor, ours, floor), over: ours < minIssueShare*floor}, nil
}

// rate is how often a second f was done, many at once.
func rate(f func() error) (float64, error) {
	var group errgroup.Group
	group.SetLimit(issueAtOnce)
	began := time.Now()
	for range issueRounds {
		group.Go(f)
	}
	err := group.Wait()
	return issueRounds / time.Since(began).Seconds(), err
}
