package tuf_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

func TestTargetCarriesWhatWasSigned(t *testing.T) {
	d := newDevice(t)
	d.repo.AddTarget("targets", "release", []byte("image"))
	d.repo.Edit = func(role string, signed tree) {
		if role == "targets" {
			at(signed, "targets", "release")["custom"] = tree{"z": []any{1, "<&>", nil}, "a": tree{"b": true}}
		}
	}
	d.repo.Publish("targets", "snapshot", "timestamp")
	target := d.target(d.good(), "release")
	if target.Path() != "release" || target.Role() != "targets" || target.Length() != 5 {
		t.Errorf("target is %s of %s with %d bytes", target.Path(), target.Role(), target.Length())
	}
	if got := fmt.Sprint(tuftest.Parse(t, target.Custom())); got != "map[a:map[b:true] z:[1 <&> <nil>]]" {
		t.Errorf("custom is %s", got)
	}
	if err := target.Check(strings.NewReader("image")); err != nil {
		t.Error(err)
	}
}

func TestRepositoryWithoutConsistentSnapshots(t *testing.T) {
	d := newDevice(t)
	d.repo.Root.Signed.ConsistentSnapshot = false
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "a", Paths: []string{"dir/*"}})
	d.repo.AddTarget("a", "dir/file", []byte("content"))
	d.repo.PublishAll()
	c := d.good()
	if got, err := download(t, c, d.target(c, "dir/file")); err != nil || got != "content" {
		t.Errorf("downloaded %q: %v", got, err)
	}
	want := []string{"2.root.json", "3.root.json", "timestamp.json", "snapshot.json", "targets.json", "a.json"}
	if !slices.Equal(d.repo.Asked, want) || !slices.Equal(d.repo.AskedTargets, []string{"dir/file"}) {
		t.Errorf("asked for %q and %q", d.repo.Asked, d.repo.AskedTargets)
	}
}

func TestAllKeyTypesSignAllRoles(t *testing.T) {
	d := newDevice(t)
	first := d.repo.Signers["root"]
	var all []tuftest.Signer
	for _, kind := range tuftest.Kinds() {
		all = append(all, tuftest.NewSigner(t, kind))
	}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		d.repo.SetKeys(role, len(all), all, all)
	}
	d.repo.Signers["root"] = append(first, all...)
	d.repo.PublishAll()
	d.good()
}

// The helper has no network: a courier brings it what another client fetched.
func TestBundleBringsAnotherClientToTheSameState(t *testing.T) {
	d := newDevice(t)
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "a/b", Paths: []string{"*"}})
	d.repo.AddTarget("a/b", "file", []byte("content"))
	d.repo.PublishAll()
	d.good()
	d.repo.Publish("root")
	courier := d.good()
	d.target(courier, "file")
	bundle, err := courier.Bundle(1)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"1.a%2Fb.json", "2.root.json", "2.snapshot.json", "2.targets.json", "3.root.json", "timestamp.json"}
	if got := slices.Sorted(maps.Keys(bundle)); !slices.Equal(got, want) {
		t.Errorf("bundle holds %q", got)
	}
	helper := *d
	helper.dir, helper.from = filepath.Join(t.TempDir(), "helper"), bundle
	target := helper.target(helper.good(), "file")
	if err := target.Check(strings.NewReader("content")); err != nil {
		t.Error(err)
	}
	if !maps.Equal(helper.stored(), d.stored()) {
		t.Error("the helper stored something else")
	}
	// And the courier can't change a thing.
	for name, data := range bundle {
		helper.dir = filepath.Join(t.TempDir(), "helper")
		bundle[name] = bytes.Replace(data, []byte(`"2030`), []byte(`"2040`), 1)
		if c, err := helper.refresh(); err == nil {
			if _, err := c.Target(t.Context(), "file"); err == nil {
				t.Errorf("%s was altered and accepted", name)
			}
		}
		delete(bundle, name)
		if c, err := helper.refresh(); err == nil && !strings.HasSuffix(name, ".root.json") {
			if _, err := c.Target(t.Context(), "file"); err == nil {
				t.Errorf("%s was left out and not missed", name)
			}
		}
		bundle[name] = data
	}
	helper.dir = filepath.Join(t.TempDir(), "helper")
	helper.target(helper.good(), "file")
}

func TestConfigIsChecked(t *testing.T) {
	repo := tuftest.New(t)
	good := tuf.Config{FS: &fsx.FS{}, Dir: t.TempDir(), Root: repo.Served["root"][0], Metadata: repo.Metadata(), Now: tuftest.Epoch}
	if _, err := tuf.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tuf.Config){
		"no FS":          func(c *tuf.Config) { c.FS = nil },
		"no folder":      func(c *tuf.Config) { c.Dir = "" },
		"no root":        func(c *tuf.Config) { c.Root = nil },
		"other root":     func(c *tuf.Config) { c.Root = repo.Served["targets"][0] },
		"no fetcher":     func(c *tuf.Config) { c.Metadata = nil },
		"no clock":       func(c *tuf.Config) { c.Now = nil },
		"zero time":      func(c *tuf.Config) { c.Now = func() time.Time { return time.Time{} } },
		"unsigned root":  func(c *tuf.Config) { c.Root = bytes.Replace(c.Root, []byte(`"2030`), []byte(`"2040`), 1) },
		"root, cut off":  func(c *tuf.Config) { c.Root = c.Root[:100] },
		"root, too long": func(c *tuf.Config) { c.Root = append(bytes.Clone(c.Root), bytes.Repeat([]byte(" "), tuf.MaxRoot)...) },
	} {
		bad := good
		change(&bad)
		if _, err := tuf.New(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// fails gives an error for one file, at once or in the middle.
type fails struct {
	tuf.Fetcher
	name   string
	middle bool
}

func (f fails) Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	if name != f.name {
		return f.Fetcher.Fetch(ctx, name, limit)
	}
	if f.middle {
		return io.NopCloser(io.MultiReader(strings.NewReader("{"), f)), nil
	}
	return nil, errNetwork
}

func (fails) Read([]byte) (int, error) { return 0, errNetwork }

var errNetwork = errors.New("network is down")

// Only a clear "there is none" ends the chain of roots: a failing network must not
// make the client go on with an old root.
func TestNetworkFailureEndsTheRefresh(t *testing.T) {
	for _, name := range []string{"2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"} {
		for _, middle := range []bool{false, true} {
			d := newDevice(t)
			d.from = fails{Fetcher: d.from, name: name, middle: middle}
			c, err := d.refresh()
			if !errors.Is(err, errNetwork) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := c.Bundle(0); err == nil {
				t.Errorf("%s: a bundle of a failed refresh", name)
			}
		}
	}
}

func TestSetTakesFilesInTheirTurnOnly(t *testing.T) {
	repo := tuftest.New(t)
	repo.Publish("root", "timestamp", "snapshot", "targets")
	set, err := tuf.NewSet(repo.Served["root"][0], tuftest.Epoch())
	if err != nil {
		t.Fatal(err)
	}
	step := func(role string) tuf.Delegation { return tuf.Delegation{Parent: tuf.Root, Role: role} }
	update := func(role string, want bool) {
		t.Helper()
		if _, err := set.Update(step(role), repo.Served[role][0]); (err == nil) != want {
			t.Fatalf("update %s: %v", role, err)
		}
	}
	update("snapshot", false)
	update("targets", false)
	if set.Load(step("snapshot"), repo.Served["snapshot"][0]) {
		t.Error("a snapshot was final before there was a timestamp")
	}
	for _, role := range []string{"snapshot", "targets"} {
		if _, _, err := set.File(role); err == nil {
			t.Errorf("%s was asked for before its turn", role)
		}
	}
	if _, missing, err := set.Lookup("file"); err != nil || missing == nil || missing.Role != "targets" {
		t.Errorf("lookup in an empty set: %v, %v", missing, err)
	}
	update("timestamp", true)
	update("timestamp", false)
	if set.UpdateRoot(repo.Served["root"][1]) == nil {
		t.Error("a root was taken after the timestamp")
	}
	update("targets", false)
	update("snapshot", true)
	update("snapshot", false)
	update("targets", true)
	if _, err := set.Update(tuf.Delegation{Parent: "targets", Role: "other"}, repo.Served["targets"][0]); err == nil {
		t.Error("a role that nobody delegates to was taken")
	}
}

func TestFailedRefreshTakesTheOldStateAway(t *testing.T) {
	d := newDevice(t)
	d.repo.AddTarget("targets", "file", []byte("content"))
	d.repo.Publish("targets", "snapshot", "timestamp")
	c := d.good()
	target := d.target(c, "file")
	d.now = days(31)
	mustRefuse(t, c.Refresh(t.Context()), "root", "expired")
	if _, err := c.Target(t.Context(), "file"); err == nil {
		t.Error("an expired target was given out")
	}
	if _, err := download(t, c, target); err == nil {
		t.Error("a target was downloaded")
	}
	if _, err := c.Bundle(0); err == nil {
		t.Error("a bundle was given out")
	}
	d.now = tuftest.Epoch()
	if err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.target(c, "file")
}
