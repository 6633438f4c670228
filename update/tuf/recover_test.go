package tuf_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

// aktualizr#1185, #1548, fleet#22687: a device that was off for years, all it holds
// is expired, its root too and the ones after it.
func TestAllStoredMetadataIsExpiredAndItRecovers(t *testing.T) {
	d := rotateYearly(t, 5)
	d.now = days(365*5 - 1)
	d.good()
	d.now = days(365 * 5)
	d.refused("root", "expired")
}

// rotateYearly returns a device that refreshed once, and a repository whose root
// keys were replaced every year since.
func rotateYearly(t *testing.T, years int) *device {
	d := newDevice(t)
	d.good()
	for year := 1; year <= years; year++ {
		until := days(365 * year)
		d.repo.Root.Signed.Expires, d.repo.Timestamp.Signed.Expires, d.repo.Snapshot.Signed.Expires = until, until, until
		d.repo.Targets["targets"].Signed.Expires = until
		old := d.repo.Signers["root"]
		d.repo.Rotate("root")
		fresh := d.repo.Signers["root"]
		d.repo.Signers["root"] = append(old[:1:1], fresh...)
		d.repo.PublishAll()
		d.repo.Signers["root"] = fresh
	}
	return d
}

// A clock that runs behind accepts; one that runs ahead refuses, and once it is
// right again all is as before.
func TestWrongClockDelaysButNeverStrands(t *testing.T) {
	d := newDevice(t)
	d.now = time.Unix(0, 0)
	d.good()
	d.now = days(3650)
	d.refused("root", "expired")
	d.now = tuftest.Epoch()
	d.repo.PublishAll()
	d.good()
}

// The time is asked for once: a refresh that lasts long does not change its mind.
func TestReferenceTimeIsFixedAtTheStart(t *testing.T) {
	d := newDevice(t)
	calls := 0
	c, err := tuf.New(tuf.Config{FS: d.fs, Dir: d.dir, Root: d.pinned, Metadata: d.from, Now: func() time.Time {
		calls++
		return d.now.AddDate(0, 0, 40*(calls-2)) // New asks too
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Refresh(t.Context()); err != nil || calls != 2 {
		t.Errorf("clock read %d times: %v", calls, err)
	}
	if err := c.Refresh(t.Context()); err == nil {
		t.Error("the second refresh has the time of the first")
	}
}

func TestDamagedStateIsFetchedAgain(t *testing.T) {
	damages := map[string]func(t *testing.T, path string){
		"empty":     func(t *testing.T, path string) { write(t, path, nil) },
		"garbage":   func(t *testing.T, path string) { write(t, path, []byte("\x00\x01")) },
		"cut off":   func(t *testing.T, path string) { data, _ := os.ReadFile(path); write(t, path, data[:len(data)/2]) },
		"too large": func(t *testing.T, path string) { write(t, path, bytes.Repeat([]byte(" "), tuf.MaxTargets+1)) },
		"bit flip": func(t *testing.T, path string) {
			data, _ := os.ReadFile(path)
			write(t, path, bytes.Replace(data, []byte(`"version": 2`), []byte(`"version": 3`), 1))
		},
		"symlink": func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path)); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, damage := range damages {
		for _, role := range []string{"root", "timestamp", "snapshot", "targets", "a"} {
			t.Run(name+" "+role, func(t *testing.T) {
				d := newDevice(t)
				d.repo.Delegate("targets", metadata.DelegatedRole{Name: "a", Paths: []string{"*"}})
				d.repo.AddTarget("a", "file", []byte("content"))
				d.repo.PublishAll()
				d.repo.Publish("a", "snapshot", "timestamp")
				d.target(d.good(), "file")
				want := d.stored()
				damage(t, filepath.Join(d.dir, role+".json"))
				d.target(d.good(), "file")
				if fmt.Sprint(d.stored()) != fmt.Sprint(want) {
					t.Error("what is stored is not what it was")
				}
			})
		}
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A pinned root that came with a newer package wins over an older stored one.
func TestNewerOfPinnedAndStoredRootIsTheStart(t *testing.T) {
	d := newDevice(t)
	d.repo.Publish("root", "root", "root")
	d.good()
	d.repo.Asked = nil
	d.good()
	if d.repo.Asked[0] != "5.root.json" {
		t.Errorf("stored root 4, asked for %s", d.repo.Asked[0])
	}
	d.repo.Publish("root")
	d.pinned = d.repo.Served["root"][4]
	d.repo.Asked = nil
	d.good()
	if d.repo.Asked[0] != "6.root.json" {
		t.Errorf("pinned root 5, asked for %s", d.repo.Asked[0])
	}
}

func TestRejectedFilesAreNotStored(t *testing.T) {
	d := newDevice(t)
	d.repo.PublishAll()
	d.good()
	for role, changes := range map[string][]string{"root": nil, "timestamp": nil, "snapshot": {"timestamp"}, "targets": {"timestamp", "snapshot"}} {
		d.repo.Served["root"] = d.repo.Served["root"][:2]
		d.repo.SetVersion("root", 3)
		d.repo.Publish("targets", "snapshot", "timestamp")
		if role == "root" {
			d.repo.Publish("root")
		}
		d.repo.Alter(role, func(f tree) { at(f, "signed")["evil"] = true })
		d.refused(role, "signature", changes...)
	}
	if all, _ := filepath.Glob(filepath.Join(d.dir, "roots", "*")); len(all) != 1 {
		t.Errorf("stored roots: %q", all)
	}
}

// The power goes at each write in turn; afterwards one refresh sets all right, and
// at no time is anything stored that was not verified.
func TestPowerCutAtEveryWrite(t *testing.T) {
	d := newDevice(t)
	d.repo.SetVersion("timestamp", 1000) // by a thief
	d.repo.Publish("timestamp")
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "a", Paths: []string{"*"}})
	d.repo.AddTarget("a", "file", []byte("content"))
	d.good()
	first := d.stored()
	d.repo.SetVersion("timestamp", 2) // the owner replaces the key
	d.repo.Rotate("timestamp")
	d.repo.PublishAll()
	d.repo.Publish("root")
	served := make(map[string]bool)
	for _, versions := range d.repo.Served {
		for _, data := range versions {
			served[string(data)] = true
		}
	}
	for n := 1; ; n++ {
		fired := cutAt(t, d, first, n, served)
		if !fired {
			if n < 20 {
				t.Errorf("there were only %d operations", n-1)
			}
			return
		}
	}
}

// cutAt lets the nth operation fail, and says whether there was one.
func cutAt(t *testing.T, d *device, first map[string]string, n int, served map[string]bool) bool {
	d.dir = filepath.Join(t.TempDir(), "metadata")
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range first {
		write(t, filepath.Join(d.dir, name), []byte(data))
	}
	cut, left := errors.New("power cut"), n
	d.fs = &fsx.FS{Hook: func(string, string) error {
		if left--; left <= 0 {
			return cut
		}
		return nil
	}}
	c, err := d.refresh()
	if err == nil {
		_, err = c.Target(t.Context(), "file")
	}
	if left <= 0 != errors.Is(err, cut) {
		t.Fatalf("operation %d: %v", n, err)
	}
	for name, data := range d.stored() {
		if !served[data] {
			t.Errorf("operation %d: %s holds what was never published", n, name)
		}
	}
	d.fs = &fsx.FS{}
	d.target(d.good(), "file")
	if got := d.stored(); len(got) != 5 || !strings.Contains(got["timestamp.json"], `"version": 2`) {
		t.Errorf("operation %d: afterwards are stored %d files", n, len(got))
	}
	return left <= 0
}

func TestRootChainOfAnyLengthIsFollowedInSteps(t *testing.T) {
	d := newDevice(t)
	for range tuf.MaxRootSteps + 10 {
		d.repo.Publish("root")
	}
	c := d.good()
	if _, err := c.Bundle(0); err == nil {
		t.Error("root version 1 was never stored, but is in the bundle")
	}
	if got := strings.Count(fmt.Sprint(d.repo.Asked), ".root.json"); got != tuf.MaxRootSteps {
		t.Errorf("%d roots were asked for, the limit is %d", got, tuf.MaxRootSteps)
	}
	d.repo.Asked = nil
	d.good()
	if len(d.repo.Asked) != 12 { // 10 roots, one that is missing, timestamp
		t.Errorf("asked for %q", d.repo.Asked)
	}
}
