package secret_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/update/release"
)

func put(t testing.TB, s *secret.Store, name, text string) {
	t.Helper()
	if err := s.Put(context.Background(), name, secret.Terms{Unit: name + ".service"}, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func wantSecret(t testing.TB, s *secret.Store, name, want string) {
	t.Helper()
	if got, err := s.Get(context.Background(), name); err != nil || string(got) != want {
		t.Errorf("%s: %q, %v", name, got, err)
	}
}

// TestSecretsSurviveRestartAndUpdateButNotAnAlteredBoot.
func TestSecretsSurviveRestartAndUpdateButNotAnAlteredBoot(t *testing.T) {
	g := newGateway(t, "v1")
	s := g.store(nil)
	put(t, s, "vpn-key", "one")
	put(t, s, "vpn-key", "two")
	put(t, s, "disk", "three")
	items, err := s.List()
	for i := range items {
		items[i].Key = nil // shown by TestNewPolicyKeyTakesOverAtTheNextCommit
	}
	if want := "[{disk disk.service 1  [] [4 11 12 13] 0 <nil>} {vpn-key vpn-key.service 1  [] [4 11 12 13] 0 <nil>}]"; err != nil || fmt.Sprint(items) != want {
		t.Errorf("%v, %v", items, err)
	}
	g.reboot("v1")
	wantSecret(t, g.store(nil), "vpn-key", "two")

	g.approved = append(g.approved, boot("version 2"))
	g.reboot("version 2")
	wantSecret(t, g.store(nil), "vpn-key", "two")

	g.reboot("tampered kernel")
	_, err = g.store(nil).Get(t.Context(), "vpn-key")
	var refusal *seal.Refusal
	if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "PCR 11 (parts of the kernel image") {
		t.Errorf("a tampered boot: %v", err)
	}
	if err := g.store(nil).Put(t.Context(), "new", secret.Terms{}, []byte("x")); err == nil {
		t.Error("a secret was stored that this boot can't open")
	}

	g.reboot("v1")
	s = g.store(nil)
	if err := s.Remove("disk"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "disk"); !errors.Is(err, secret.ErrAbsent) {
		t.Errorf("removed: %v", err)
	}
	if err := s.Remove("disk"); !errors.Is(err, secret.ErrAbsent) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestNamesStayInTheFolder(t *testing.T) {
	g := newGateway(t, "v1")
	s := g.store(nil)
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".hidden", "-x", "A", "a b", "a\x00", "ä", strings.Repeat("a", secret.MaxName+1)} {
		if err := s.Put(t.Context(), name, secret.Terms{}, []byte("x")); err == nil {
			t.Errorf("%q was stored", name)
		}
		if _, err := s.Get(t.Context(), name); err == nil {
			t.Errorf("%q was opened", name)
		}
		if s.Remove(name) == nil {
			t.Errorf("%q was removed", name)
		}
	}
	for _, name := range []string{"a", "0.key", "a.next", "a.sealed", "storage-key", "wg_0-x"} {
		put(t, s, name, "of "+name)
	}
	put(t, s, "b", "x")
	for _, name := range []string{"a", "a.next", "a.sealed", "storage-key"} {
		wantSecret(t, s, name, "of "+name)
	}
}

// TestDamagedOrSwappedFileIsNamed, and does not stand in the way of others.
func TestDamagedOrSwappedFileIsNamed(t *testing.T) {
	g := newGateway(t, "v1")
	s := g.store(nil)
	put(t, s, "a", "secret of a")
	put(t, s, "b", "secret of b")
	path := func(name string) string { return filepath.Join(g.dir, "secrets", name+".sealed") }
	good, err := os.ReadFile(path("a"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(path("b"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 4
	for name, data := range map[string][]byte{"empty": {}, "cut": good[:len(good)/2], "zeros": make([]byte, len(good)), "flipped": flipped, "of b": other} {
		if err := os.WriteFile(path("a"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get(t.Context(), "a"); err == nil || !errors.Is(err, tpm.ErrDamaged) && !errors.Is(err, tpm.ErrPolicy) && !errors.Is(err, tpm.ErrReplaced) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		wantSecret(t, s, "b", "secret of b")
		if items, err := s.List(); err != nil || len(items) != 2 {
			t.Errorf("%s: %v %v", name, items, err)
		}
	}
	if err := os.Remove(path("a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path("b"), path("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, tpm.ErrDamaged) {
		t.Errorf("a planted symbolic link: %v", err)
	}
	put(t, s, "a", "again")
	wantSecret(t, s, "a", "again")
	wantSecret(t, s, "b", "secret of b")
}

// TestAnotherChipIsNamed: a disk that was moved, or a chip that was exchanged.
func TestAnotherChipIsNamed(t *testing.T) {
	g, other := newGateway(t, "v1"), newGateway(t, "v1")
	put(t, g.store(nil), "a", "x")
	other.dir = g.dir
	s := other.store(nil)
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, tpm.ErrReplaced) {
		t.Errorf("open: %v", err)
	}
	if err := s.Put(t.Context(), "b", secret.Terms{}, []byte("x")); !errors.Is(err, tpm.ErrReplaced) {
		t.Errorf("store: %v", err)
	}
	if err := s.Reset(); err != nil { // enrolled again
		t.Fatal(err)
	}
	put(t, s, "b", "x")
	wantSecret(t, s, "b", "x")
	if items, err := s.List(); err != nil || len(items) != 1 {
		t.Errorf("%v %v", items, err)
	}
}

// TestReleasePoliciesOpenSecrets: what a release target carries is what unsealing takes.
func TestReleasePoliciesOpenSecrets(t *testing.T) {
	g := newGateway(t, "v1")
	signed, err := g.signed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var r release.Release
	for _, s := range signed {
		r.PCRPolicies = append(r.PCRPolicies, release.PCRPolicy{
			Epoch: 1, Phases: "sysinit", PCRs: s.PCRs, Key: release.Digest(s.Key), Policy: release.Digest(s.Policy), Signature: s.Signature,
		})
	}
	c := g.config(nil)
	c.Signed = func(context.Context) ([]tpmpolicy.Signed, error) { return secret.Signed(&r), nil }
	s, err := secret.New(c)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "x")
	wantSecret(t, s, "a", "x")
}

func TestIncompleteConfigurationIsRefused(t *testing.T) {
	g := newGateway(t, "v1")
	for name, change := range map[string]func(*secret.Config){
		"FS": func(c *secret.Config) { c.FS = nil }, "Dir": func(c *secret.Config) { c.Dir = "" }, "TPM": func(c *secret.Config) { c.TPM = nil },
		"Signed": func(c *secret.Config) { c.Signed = nil }, "Log": func(c *secret.Config) { c.Log = nil },
	} {
		c := g.config(nil)
		change(&c)
		if _, err := secret.New(c); err == nil {
			t.Errorf("no %s: accepted", name)
		}
	}
}

// TestKeyRotationIsAReseal: the release signs with both keys, then the device goes over.
func TestKeyRotationIsAReseal(t *testing.T) {
	g := newGateway(t, "v1")
	s := g.store(nil)
	put(t, s, "a", "x")
	old := g.key
	before, err := g.signed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.key = newKey(t)
	after, err := g.signed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := g.config(nil)
	c.Signed = func(context.Context) ([]tpmpolicy.Signed, error) { return append(before, after...), nil }
	both, err := secret.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantSecret(t, g.store(nil), "a", "x")
	g.key = old
	if _, err := g.store(nil).Get(t.Context(), "a"); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("the old key still opens it: %v", err)
	}
}
