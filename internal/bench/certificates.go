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
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

const (
	minIssueShare = 0.8
	issueTurns    = 5
	issueRounds   = 1500
	issueAtOnce   = 256 // requests that are in the server at a time
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
			now := time.Now()
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
	// By turns, and the best of each: what else this machine does hits both alike.
	floor, ours := effort{cpu: time.Hour, clock: time.Hour}, effort{cpu: time.Hour, clock: time.Hour}
	for range issueTurns {
		for best, f := range map[*effort]func() error{&floor: issue(false), &ours: issue(true)} {
			c, err := effortOf(f)
			if err != nil {
				return figure{}, err
			}
			best.cpu, best.clock = min(best.cpu, c.cpu), min(best.clock, c.clock)
		}
	}
	share := floor.cpu.Seconds() / ours.cpu.Seconds()
	return figure{
		text: fmt.Sprintf("%.2fx of the floor (%d us of processor for %d us; by the clock %.2fx)", share, ours.cpu.Microseconds(), floor.cpu.Microseconds(), floor.clock.Seconds()/ours.clock.Seconds()),
		over: share < minIssueShare,
	}, nil
}

// effort is what one call takes: of the processor, and by the clock, which waits for
// the disk and for whatever else runs here.
type effort struct{ cpu, clock time.Duration }

func effortOf(f func() error) (effort, error) {
	var group errgroup.Group
	group.SetLimit(issueAtOnce)
	runtime.GC()
	began, used := time.Now(), cpuTime()
	for range issueRounds {
		group.Go(f)
	}
	err := group.Wait()
	return effort{(cpuTime() - used) / issueRounds, time.Since(began) / issueRounds}, err
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
