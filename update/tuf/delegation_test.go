package tuf_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

func TestDelegatedRoleSpeaksOnlyForItsPaths(t *testing.T) {
	prefix := func(path string, n int) string {
		sum := sha256.Sum256([]byte(path))
		return hex.EncodeToString(sum[:])[:n]
	}
	for _, c := range []struct {
		role metadata.DelegatedRole
		path string
		good bool
	}{
		{metadata.DelegatedRole{Paths: []string{"a/*"}}, "a/x", true},
		{metadata.DelegatedRole{Paths: []string{"a/*"}}, "a/x/y", false}, // a star does not match a slash
		{metadata.DelegatedRole{Paths: []string{"*"}}, "a/x", false},
		{metadata.DelegatedRole{Paths: []string{"a/?.tgz"}}, "a/x.tgz", true},
		{metadata.DelegatedRole{Paths: []string{"a/?.tgz"}}, "a/xx.tgz", false},
		{metadata.DelegatedRole{Paths: []string{"b/*", "a/x"}}, "a/x", true},
		{metadata.DelegatedRole{Paths: []string{"A/x"}}, "a/x", false},
		{metadata.DelegatedRole{}, "a/x", false},
		{metadata.DelegatedRole{PathHashPrefixes: []string{prefix("a/x", 1)}}, "a/x", true},
		{metadata.DelegatedRole{PathHashPrefixes: []string{prefix("a/x", 64)}}, "a/x", true},
		{metadata.DelegatedRole{PathHashPrefixes: []string{prefix("a/y", 8)}}, "a/x", false},
	} {
		d := newDevice(t)
		c.role.Name = "delegated"
		d.repo.Delegate("targets", c.role)
		d.repo.AddTarget("delegated", c.path, []byte("content"))
		d.repo.Publish("delegated", "targets", "snapshot", "timestamp")
		target, err := d.good().Target(t.Context(), c.path)
		if c.good && (err != nil || target.Role() != "delegated") || !c.good && !errors.Is(err, tuf.ErrNoTarget) {
			t.Errorf("%q %q: %s: %v", c.role.Paths, c.role.PathHashPrefixes, c.path, err)
		}
	}
}

// GO-2022-1004: the file of one delegated role is served for another one.
func TestWrongDelegationFileIsRefused(t *testing.T) {
	d := newDevice(t)
	for _, name := range []string{"a", "b"} {
		d.repo.Delegate("targets", metadata.DelegatedRole{Name: name, Paths: []string{name + "/*"}})
		d.repo.AddTarget(name, "a/file", []byte("by "+name))
	}
	d.repo.Publish("a", "b", "targets", "snapshot", "timestamp")
	d.repo.Served["a"] = d.repo.Served["b"]
	c := d.good()
	_, err := c.Target(t.Context(), "a/file")
	mustRefuse(t, err, "a", "signature")
	if _, ok := d.stored()["a.json"]; ok {
		t.Error("the wrong file was stored")
	}
}

// Two roles delegate to a third, each with keys of its own: what the one accepted,
// the other must not, wherever it was loaded first.
func TestEachDelegationAsksForItsOwnSignatures(t *testing.T) {
	d := newDevice(t)
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "a", Paths: []string{"a/*"}})
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "b", Paths: []string{"b/*"}})
	d.repo.Delegate("a", metadata.DelegatedRole{Name: "shared", Paths: []string{"*/*"}})
	sign := d.repo.Signers["shared"]
	d.repo.Delegate("b", metadata.DelegatedRole{Name: "shared", Paths: []string{"*/*"}})
	d.repo.Signers["shared"] = sign // only the key that a knows
	d.repo.AddTarget("shared", "a/file", []byte("content"))
	d.repo.AddTarget("shared", "b/file", []byte("content"))
	d.repo.PublishAll()
	c := d.good()
	d.target(c, "a/file")
	_, err := c.Target(t.Context(), "b/file")
	mustRefuse(t, err, "shared", "signature")
	_, err = d.good().Target(t.Context(), "b/file") // stored by now, and first seen from b
	mustRefuse(t, err, "shared", "signature")
}

func TestDelegationThresholdAndRevocation(t *testing.T) {
	d := newDevice(t)
	two := []tuftest.Signer{tuftest.NewSigner(t, "ecdsa"), tuftest.NewSigner(t, "ed25519")}
	keys := &metadata.Delegations{Keys: map[string]*metadata.Key{two[0].ID: two[0].Key, two[1].ID: two[1].Key}}
	d.repo.Targets["targets"].Signed.Delegations = keys
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "a", KeyIDs: []string{two[0].ID, two[1].ID}, Threshold: 2, Paths: []string{"*"}})
	d.repo.AddTarget("a", "file", []byte("content"))
	d.repo.Signers["a"] = two[:1]
	d.repo.Publish("a", "targets", "snapshot", "timestamp")
	_, err := d.good().Target(t.Context(), "file")
	mustRefuse(t, err, "a", "signature")
	d.repo.Signers["a"] = two
	d.repo.Publish("a", "snapshot", "timestamp")
	d.target(d.good(), "file")
	keys.Roles = nil // revoked
	d.repo.Publish("targets", "snapshot", "timestamp")
	if _, err := d.good().Target(t.Context(), "file"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("after revocation: %v", err)
	}
}

func TestDelegatedRoleThatTheSnapshotDoesNotList(t *testing.T) {
	d := newDevice(t)
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "a", Paths: []string{"*"}})
	d.repo.Publish("a")
	delete(d.repo.Snapshot.Signed.Meta, "a.json")
	d.repo.Publish("targets", "snapshot", "timestamp")
	_, err := d.good().Target(t.Context(), "file")
	mustRefuse(t, err, "a", "version")
}

// A chain of delegations can't keep a device busy for ever.
func TestSearchEndsAfterSoManyRoles(t *testing.T) {
	for n, found := range map[int]bool{tuf.MaxRolesSought - 1: true, tuf.MaxRolesSought: false} {
		d := newDevice(t)
		last := "targets"
		for i := range n {
			name := fmt.Sprint("role-", i)
			d.repo.Delegate(last, metadata.DelegatedRole{Name: name, Paths: []string{"*"}})
			last = name
		}
		d.repo.AddTarget(last, "file", []byte("content"))
		d.repo.PublishAll()
		c := d.good()
		d.repo.Asked = nil
		_, err := c.Target(t.Context(), "file")
		if found && err != nil {
			t.Errorf("%d roles: %v", n, err)
		}
		if !found {
			mustRefuse(t, err, "file", "limit")
		}
		if len(d.repo.Asked) > tuf.MaxRolesSought {
			t.Errorf("%d files were fetched", len(d.repo.Asked))
		}
	}
}
