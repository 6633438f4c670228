package tuf_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

// The attacks of section 1.5.2 of the specification, by name. Slow retrieval is in
// package fetch.

func TestArbitrarySoftwareAttack(t *testing.T) {
	d := newDevice(t)
	d.repo.AddTarget("targets", "file", []byte("good software"))
	d.repo.Publish("targets", "snapshot", "timestamp")
	c := d.good()
	target := d.target(c, "file")
	for _, evil := range []string{"evil software", "good", "good software and more", ""} {
		d.repo.Files["file"] = []byte(evil)
		if got, err := download(t, c, target); err == nil || len(got) > len("good software") {
			t.Errorf("%q was downloaded as %q: %v", evil, got, err)
		}
		if target.Check(strings.NewReader(evil)) == nil {
			t.Errorf("%q was taken for the target", evil)
		}
	}
	if got, err := download(t, c, d.target(c, "file")); err == nil {
		t.Errorf("downloaded %q", got)
	}
	// Signed by somebody: the attacker's own key, in each role.
	for _, role := range []string{"targets", "snapshot", "timestamp", "root"} {
		d := newDevice(t)
		d.good()
		d.repo.Signers[role] = []tuftest.Signer{tuftest.NewSigner(t, "ed25519")}
		d.repo.PublishAll()
		_, err := d.refresh()
		mustRefuse(t, err, role, "signature")
	}
	// Not in any metadata.
	if _, err := c.Target(t.Context(), "other"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("unlisted target: %v", err)
	}
	mustRefuse(t, tuf.Target{}.Check(strings.NewReader("")), "", "hash")
}

// endless answers without end, for one file.
type endless struct {
	tuf.Fetcher
	name string
	read *int64
}

func (e endless) Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	if name != e.name {
		return e.Fetcher.Fetch(ctx, name, limit)
	}
	return io.NopCloser(e), nil
}

func (e endless) Read(p []byte) (int, error) {
	if *e.read > 8*tuf.MaxTargets {
		return 0, errors.New("the reader does not stop")
	}
	copy(p, bytes.Repeat([]byte(" "), len(p)))
	*e.read += int64(len(p))
	return len(p), nil
}

func TestEndlessDataAttack(t *testing.T) {
	for name, c := range map[string]struct {
		role  string
		limit int64
	}{
		"2.root.json": {"root", tuf.MaxRoot}, "timestamp.json": {"timestamp", tuf.MaxTimestamp},
		"1.snapshot.json": {"snapshot", tuf.MaxSnapshot}, "1.targets.json": {"targets", tuf.MaxTargets},
	} {
		t.Run(c.role, func(t *testing.T) {
			d := newDevice(t)
			var read int64
			d.from = endless{Fetcher: d.from, name: name, read: &read}
			_, err := d.refresh()
			mustRefuse(t, err, c.role, "limit")
			if read > 2*c.limit { // the reader's buffer may be larger than what is left
				t.Errorf("read %d bytes, the limit is %d", read, c.limit)
			}
		})
	}
	t.Run("signed length", func(t *testing.T) {
		d := newDevice(t)
		d.repo.Hashes = true
		d.repo.Publish("targets", "snapshot", "timestamp")
		d.repo.Served["snapshot"][1] = append(d.repo.Served["snapshot"][1], bytes.Repeat([]byte(" "), 1000)...)
		d.refused("snapshot", "limit", "timestamp")
	})
	t.Run("a signed length does not raise the limit", func(t *testing.T) {
		d := newDevice(t)
		d.repo.Timestamp.Signed.Meta["snapshot.json"].Length = 1 << 40
		d.repo.Publish("timestamp")
		var read int64
		d.from = endless{Fetcher: d.from, name: "1.snapshot.json", read: &read}
		d.refused("snapshot", "limit", "timestamp")
	})
	t.Run("target", func(t *testing.T) {
		d := newDevice(t)
		d.repo.AddTarget("targets", "file", []byte("content"))
		d.repo.Publish("targets", "snapshot", "timestamp")
		c := d.good()
		d.repo.Files["file"] = bytes.Repeat([]byte("content"), 1000)
		got, err := download(t, c, d.target(c, "file"))
		mustRefuse(t, err, "file", "length")
		if len(got) != len("content") {
			t.Errorf("%d bytes were written", len(got))
		}
	})
}

// A thief of the online keys raises version numbers; the owner replaces the keys.
func TestFastForwardAttackIsRecoveredFrom(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot"} {
		t.Run(role, func(t *testing.T) {
			d := newDevice(t)
			const high = 1 << 62
			d.repo.SetVersion("timestamp", high)
			d.repo.Publish("timestamp")
			d.good()
			d.repo.SetVersion("timestamp", 2)
			d.repo.Publish("timestamp")
			d.refused("timestamp", "rollback")
			d.repo.Rotate(role)
			d.repo.SetVersion("timestamp", 3)
			d.repo.Publish("root", "snapshot", "timestamp")
			d.good()
		})
	}
}

// Adding a key is no reason to forget: only a rotation that takes one away is.
func TestAddedKeyKeepsTheFloor(t *testing.T) {
	d := newDevice(t)
	d.repo.SetVersion("timestamp", 100)
	d.repo.Publish("timestamp")
	d.good()
	d.repo.AddKey("timestamp", tuftest.NewSigner(t, "ed25519"))
	d.repo.SetVersion("timestamp", 99)
	d.repo.Publish("root", "timestamp")
	d.refused("timestamp", "rollback", "root")
}

func TestFreezeAttack(t *testing.T) {
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		t.Run(role, func(t *testing.T) {
			d := newDevice(t)
			switch role {
			case "root":
				d.repo.Root.Signed.Expires = days(1)
			case "timestamp":
				d.repo.Timestamp.Signed.Expires = days(1)
			case "snapshot":
				d.repo.Snapshot.Signed.Expires = days(1)
			case "targets":
				d.repo.Targets["targets"].Signed.Expires = days(1)
			}
			d.repo.PublishAll()
			d.good()
			d.now = days(1)
			d.refused(role, "expired") // at that second it has expired
			d.now = days(2)
			d.refused(role, "expired")
			d.now = days(1).Add(-1)
			d.good()
		})
	}
}

// The mirror serves parts that were all valid once, but never together.
func TestMixAndMatchAttack(t *testing.T) {
	d := newDevice(t)
	d.repo.AddTarget("targets", "file", []byte("one"))
	d.repo.Publish("targets", "snapshot", "timestamp")
	d.repo.AddTarget("targets", "file", []byte("two"))
	d.repo.Publish("targets", "snapshot", "timestamp")
	for _, role := range []string{"snapshot", "targets"} {
		newest := d.repo.Served[role][2]
		d.repo.Served[role][2] = d.repo.Served[role][1]
		d.refused(role, "version", "timestamp", "snapshot")
		d.repo.Served[role][2] = newest
	}
	// Signed and of the same version, but not the file that was meant.
	for _, role := range []string{"snapshot", "targets"} {
		for rule, change := range map[string]func([]byte) []byte{
			"hash":   func(data []byte) []byte { return bytes.Replace(data, []byte("\n"), []byte(" "), 1) },
			"length": func(data []byte) []byte { return bytes.Replace(data, []byte("\n"), nil, 1) },
			"limit":  func(data []byte) []byte { return append(bytes.Clone(data), ' ') },
		} {
			d := newDevice(t)
			d.repo.Hashes = true
			d.repo.Publish("targets", "snapshot", "timestamp")
			d.repo.Served[role][1] = change(d.repo.Served[role][1])
			d.refused(role, rule, "timestamp", "snapshot")
		}
	}
}

func TestRollbackAttack(t *testing.T) {
	t.Run("timestamp", func(t *testing.T) {
		d := newDevice(t)
		d.repo.Publish("timestamp")
		d.good()
		d.repo.Served["timestamp"] = d.repo.Served["timestamp"][:1]
		d.refused("timestamp", "rollback")
	})
	t.Run("snapshot in the timestamp", func(t *testing.T) {
		d := newDevice(t)
		d.repo.Publish("snapshot", "timestamp")
		d.good()
		d.repo.Timestamp.Signed.Meta["snapshot.json"].Version = 1
		d.repo.Publish("timestamp")
		d.refused("timestamp", "rollback")
	})
	t.Run("targets in the snapshot", func(t *testing.T) {
		d := newDevice(t)
		d.repo.Publish("targets", "snapshot", "timestamp")
		d.good()
		d.repo.Snapshot.Signed.Meta["targets.json"].Version = 1
		d.repo.Publish("snapshot", "timestamp")
		d.refused("snapshot", "rollback", "timestamp")
	})
	t.Run("a delegated role left out", func(t *testing.T) {
		d := newDevice(t)
		d.repo.Delegate("targets", metadata.DelegatedRole{Name: "extra", Paths: []string{"*"}})
		d.repo.Publish("extra", "targets", "snapshot", "timestamp")
		d.good()
		delete(d.repo.Snapshot.Signed.Meta, "extra.json")
		d.repo.Publish("snapshot", "timestamp")
		d.refused("snapshot", "rollback", "timestamp")
	})
	t.Run("root", func(t *testing.T) {
		d := newDevice(t)
		d.repo.Publish("root", "root")
		d.good()
		d.repo.Served["root"] = append(d.repo.Served["root"], d.repo.Served["root"][0])
		d.refused("root", "version")
	})
	t.Run("an expired floor still holds", func(t *testing.T) {
		d := newDevice(t)
		d.repo.Timestamp.Signed.Expires = days(1)
		d.repo.Publish("timestamp")
		d.good()
		d.now = days(2)
		d.repo.Served["timestamp"] = d.repo.Served["timestamp"][:1]
		d.refused("timestamp", "rollback")
	})
}

// What is meant for one path, product or role is not accepted for another.
func TestWrongSoftwareAttack(t *testing.T) {
	d := newDevice(t)
	d.repo.AddTarget("targets", "product-a", []byte("software for a"))
	d.repo.AddTarget("targets", "product-b", []byte("software for b"))
	d.repo.Publish("targets", "snapshot", "timestamp")
	c := d.good()
	d.repo.Files["product-a"] = d.repo.Files["product-b"]
	_, err := download(t, c, d.target(c, "product-a"))
	mustRefuse(t, err, "product-a", "hash")
	if d.target(c, "product-a").Check(strings.NewReader("software for b")) == nil {
		t.Error("b was taken for a")
	}
}

// One stolen key of a role with a threshold of two changes nothing, and what was
// signed with it alone is worth nothing after it is revoked.
func TestKeyCompromise(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets", "root"} {
		t.Run(role, func(t *testing.T) {
			d := newDevice(t)
			two := []tuftest.Signer{tuftest.NewSigner(t, "ed25519"), tuftest.NewSigner(t, "ecdsa")}
			first := d.repo.Signers["root"]
			d.repo.SetKeys(role, 2, two, two)
			if role == "root" {
				d.repo.Signers["root"] = append(first, two...) // the old key signs once more
			}
			d.repo.PublishAll()
			d.good()
			stolen := two[:1]
			d.repo.Signers[role] = stolen
			for _, r := range []string{"targets", "snapshot", "timestamp"} {
				d.repo.Publish(r)
			}
			if role == "root" {
				d.repo.Publish("root")
			}
			_, err := d.refresh()
			mustRefuse(t, err, role, "signature")
		})
	}
	t.Run("revoked", func(t *testing.T) {
		d := newDevice(t)
		stolen := d.repo.Signers["targets"]
		d.repo.Rotate("targets")
		d.repo.Publish("targets", "snapshot", "timestamp", "root")
		d.good()
		d.repo.Signers["targets"] = stolen
		d.repo.Publish("targets", "snapshot", "timestamp")
		d.refused("targets", "signature", "snapshot", "timestamp")
	})
}
