package release_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/fsx"
	target "github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// refused runs a step that must fail with text, and must not touch what is served.
func (a *author) refused(text string, step func() error) {
	a.t.Helper()
	var before map[string][]byte
	if _, err := os.Stat(a.served); err == nil {
		before = tree(a.t, a.served)
	}
	err := step()
	if err == nil || !strings.Contains(err.Error(), text) {
		a.t.Errorf("it should be refused with %q: %v", text, err)
	}
	if before != nil && !same(before, tree(a.t, a.served)) {
		a.t.Error("what is served has changed")
	}
}

func (a *author) tryPublish() error {
	_, err := a.repo.Publish(context.Background(), release.PublishOptions{To: a.served})
	return err
}

func TestPrivateKeysAreTheirOwnersOnly(t *testing.T) {
	a := newAuthor(t)
	keys, err := a.repo.Keys()
	must(t, err)
	if len(keys) != 3+1+1+1+1+1 {
		t.Errorf("%d keys", len(keys))
	}
	for _, k := range keys {
		info, err := os.Stat(k.File)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", k.File, info.Mode().Perm())
		}
	}
	info, err := os.Stat(filepath.Join(a.dir, "keys"))
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the key folder has mode %o", info.Mode().Perm())
	}
	must(t, os.Chmod(keys[0].File, 0o640))
	a.refused("0600", func() error { _, err := a.repo.Keys(); return err })
}

func TestAnInitThatWasCutShortGoesOnWithItsKeys(t *testing.T) {
	cut := errors.New("power cut")
	for n := 1; ; n += 5 {
		dir, ops := filepath.Join(t.TempDir(), "repo"), 0
		cfg := release.Config{Dir: dir, Now: time.Now, FS: &fsx.FS{Hook: func(string, string) error {
			if ops++; ops >= n {
				return cut
			}
			return nil
		}}}
		_, err := release.Init(cfg, release.DefaultInit("edge"))
		if err != nil && !errors.Is(err, cut) {
			t.Fatalf("op %d: %v", n, err)
		}
		if err == nil {
			if n < 20 {
				t.Fatalf("only %d ops were seen", n)
			}
			return
		}
		before, _ := filepath.Glob(filepath.Join(dir, "keys", "*.pem"))
		cfg.FS = &fsx.FS{}
		if _, err := release.Open(cfg); err == nil {
			continue // it was complete, but for the flush of a folder
		}
		if _, err := release.Init(cfg, release.DefaultInit("edge")); err != nil {
			t.Fatalf("after a cut at op %d: %v", n, err)
		}
		if after, _ := filepath.Glob(filepath.Join(dir, "keys", "*.pem")); len(after) != 8 {
			t.Fatalf("after a cut at op %d there are %d key files, %d before", n, len(after), len(before))
		}
	}
}

func TestARepositoryIsNeverMadeOverAnother(t *testing.T) {
	a := newAuthor(t)
	a.refused("already", func() error { _, err := release.Init(a.config(), release.DefaultInit("edge")); return err })
}

// Publishing is cut at every op in turn: a device sees the old release or the new
// one, whole, and Publish done again ends it.
func TestAPublishThatWasCutShortShowsOldOrNew(t *testing.T) {
	a := newAuthor(t)
	a.build("1.0.0", 1)
	a.sign()
	a.publish()
	a.build("1.1.0", 1)
	a.sign()
	old := a.served
	for n := 1; ; n += 17 {
		a.served = filepath.Join(t.TempDir(), "served")
		must(t, os.CopyFS(a.served, os.DirFS(old)))
		ops := 0
		cfg := a.config()
		cfg.FS = &fsx.FS{Hook: func(_, path string) error {
			if strings.HasPrefix(path, a.served) {
				if ops++; ops >= n {
					return errors.New("power cut")
				}
			}
			return nil
		}}
		var err error
		a.repo, err = release.Open(cfg)
		must(t, err)
		cut := a.tryPublish()
		d := a.device(a.root(1))
		must(t, d.Refresh(t.Context()))
		d.checkWhole(t, "releases/edge/stable/1.0.0.json")
		if found, err := d.Target(t.Context(), "releases/edge/stable/1.1.0.json"); err == nil {
			d.checkWhole(t, found.Path())
		} else if !errors.Is(err, tuf.ErrNoTarget) || cut == nil {
			t.Fatalf("cut at op %d: %v", n, err)
		}
		a.reopen()
		a.publish()
		d.checkNew(t)
		if cut == nil {
			return
		}
	}
}

func (d *device) checkWhole(t *testing.T, path string) {
	t.Helper()
	found, err := d.Target(t.Context(), path)
	must(t, err)
	r, err := target.Parse(found.Custom())
	must(t, err)
	for _, image := range r.Images {
		d.image(image)
	}
}

func (d *device) checkNew(t *testing.T) {
	t.Helper()
	must(t, d.Refresh(t.Context()))
	d.checkWhole(t, "releases/edge/stable/1.1.0.json")
}

// Build, Policy and Sign are cut at one op after the other; done again, the release
// is whole.
func TestAuthoringThatWasCutShortCanBeDoneAgain(t *testing.T) {
	for n := 1; ; n += 29 {
		a := newAuthor(t)
		ops := 0
		cfg := a.config()
		cfg.FS = &fsx.FS{Hook: func(string, string) error {
			if ops++; ops >= n {
				return errors.New("power cut")
			}
			return nil
		}}
		var err error
		a.repo, err = release.Open(cfg)
		must(t, err)
		_, cut := a.repo.Build(t.Context(), a.options("1.1.0", 1))
		if cut == nil {
			_, cut = a.repo.Policy(release.PolicyOptions{Fleet: "lab"})
		}
		if cut == nil {
			_, cut = a.repo.Sign()
		}
		a.reopen()
		a.build("1.1.0", 1)
		_, err = a.repo.Policy(release.PolicyOptions{Fleet: "lab"})
		must(t, err)
		a.sign()
		a.publish()
		a.device(a.root(1)).checkNew(t)
		if cut == nil {
			return
		}
	}
}

func TestADraftIsNotPublished(t *testing.T) {
	a := newAuthor(t)
	a.sign()
	a.publish()
	a.build("1.0.0", 1)
	a.refused("sign it first", a.tryPublish)
}

func TestAPublishedVersionIsNeverBuiltDifferently(t *testing.T) {
	a := newAuthor(t)
	a.build("1.0.0", 1)
	a.sign()
	a.publish()
	o := a.options("1.0.0", 1)
	must(t, os.WriteFile(o.Rootfs, noise("other", 1<<18), 0o644))
	a.refused("was published already", func() error { _, err := a.repo.Build(t.Context(), o); return err })
}

func TestAWithdrawnReleaseIsOfferedNoMoreAndStaysInThePolicy(t *testing.T) {
	a := newAuthor(t)
	for _, version := range []string{"1.0.0", "1.1.0"} {
		a.build(version, 1)
		_, err := a.repo.Policy(release.PolicyOptions{Fleet: "lab"})
		must(t, err)
		a.sign()
		a.publish()
	}
	must(t, a.repo.Withdraw("edge", "stable", "1.1.0"))
	policy, err := a.repo.Policy(release.PolicyOptions{})
	must(t, err)
	if !strings.Contains(string(policy), `"version": "1.1.0"`) {
		t.Error("the gateways that run it would turn red")
	}
	a.sign()
	a.publish()
	d := a.device(a.root(1))
	must(t, d.Refresh(t.Context()))
	for _, path := range []string{"releases/edge/stable/1.1.0.json", "releases/edge/stable/1.1.0/rootfs.caibx"} {
		if _, err := d.Target(t.Context(), path); !errors.Is(err, tuf.ErrNoTarget) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	d.checkWhole(t, "releases/edge/stable/1.0.0.json")
	o := a.options("1.1.0", 1)
	o.Notes = "another one"
	a.refused("was published already", func() error { _, err := a.repo.Build(t.Context(), o); return err })
	a.refused("there is no", func() error { return a.repo.Withdraw("edge", "beta", "1.0.0") })
}

func TestAReleaseThatNoDeviceWouldTakeIsNotBuilt(t *testing.T) {
	a := newAuthor(t)
	a.build("2.0.0", 2)
	for text, change := range map[string]func(*release.BuildOptions){
		"below that of the lower version": func(o *release.BuildOptions) { o.Version, o.Epoch = "2.1.0", 1 },
		"epoch is 0":                      func(o *release.BuildOptions) { o.Epoch = 0 },
		"three numbers":                   func(o *release.BuildOptions) { o.Version = "2" },
		"no product":                      func(o *release.BuildOptions) { o.Product = "other" },
		"hardware":                        func(o *release.BuildOptions) { o.Hardware = nil },
		"confirm.timeout_seconds":         func(o *release.BuildOptions) { o.Confirm.Timeout = 0 },
		"nothing may open in shutdown":    func(o *release.BuildOptions) { o.Phases = []string{"sysinit:ready:shutdown"} },
		"no image":                        func(o *release.BuildOptions) { o.Rootfs = "" },
		"PE file":                         func(o *release.BuildOptions) { o.UKI = o.Rootfs },
		"at most 512":                     func(o *release.BuildOptions) { o.Epoch = 86 },
		"without a UKI":                   func(o *release.BuildOptions) { o.UKI = "" },
		"above version":                   func(o *release.BuildOptions) { o.MinSource = "9.0.0" },
	} {
		o := a.options("2.0.1", 2)
		change(&o)
		a.refused(text, func() error { _, err := a.repo.Build(t.Context(), o); return err })
	}
	list, err := a.repo.List()
	must(t, err)
	if len(list) != 1 {
		t.Errorf("%d releases are drafted", len(list))
	}
}

func TestARepositoryFromABackupIsNotPublishedOverANewerOne(t *testing.T) {
	a := newAuthor(t)
	a.build("1.0.0", 1)
	a.sign()
	a.publish()
	backup := filepath.Join(t.TempDir(), "repo")
	must(t, os.CopyFS(backup, os.DirFS(a.dir)))
	must(t, filepath.WalkDir(filepath.Join(backup, "keys"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	}))
	for _, version := range []string{"1.1.0", "1.2.0"} {
		a.build(version, 1)
		a.sign()
		a.publish()
	}
	a.dir = backup
	a.reopen()
	a.refused("rollback", a.tryPublish)
}

func TestExpiredFilesAreNotPublished(t *testing.T) {
	a := newAuthor(t)
	a.sign()
	a.publish()
	a.now = a.now.AddDate(0, 0, release.DefaultLives().Targets+1)
	a.refused("expired", a.tryPublish)
	a.sign()
	must(t, a.repo.RenewRoot())
	a.publish()
	d := a.device(a.root(1))
	must(t, d.Refresh(t.Context()))
	secondOpinion(t, a)
}

func TestADamagedChunkIsNotPublished(t *testing.T) {
	a := newAuthor(t)
	a.sign()
	a.publish()
	a.build("1.0.0", 1)
	a.sign()
	chunks, err := filepath.Glob(filepath.Join(a.dir, "chunks", "*", "*.cacnk"))
	must(t, err)
	data, err := os.ReadFile(chunks[0])
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.WriteFile(chunks[0], data, 0o644))
	if err := a.tryPublish(); err == nil {
		t.Error("it was published")
	}
	d := a.device(a.root(1))
	must(t, d.Refresh(t.Context()))
	if _, err := d.Target(t.Context(), "releases/edge/stable/1.0.0.json"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("devices see the release: %v", err)
	}
	a.build("1.0.0", 1) // repairs the store
	a.sign()
	a.publish()
}

func TestServingGivesFilesAndNothingElse(t *testing.T) {
	a := newAuthor(t)
	a.build("1.0.0", 1)
	a.sign()
	a.publish()
	must(t, os.WriteFile(filepath.Join(a.served, "metadata", ".timestamp.json.tmp"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(a.served), "secret.json"), []byte("x"), 0o644))
	must(t, os.Symlink("../../secret.json", filepath.Join(a.served, "metadata", "link.json")))
	must(t, os.WriteFile(filepath.Join(a.served, "private.json"), []byte("x"), 0o644))
	h := release.Handler(a.served)
	ask := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(method, "/", nil)
		req.URL.Path = path
		h.ServeHTTP(w, req)
		return w
	}
	if w := ask("GET", "/metadata/timestamp.json"); w.Code != http.StatusOK || w.Header().Get("Cache-Control") != "no-cache" {
		t.Errorf("timestamp: %d %q", w.Code, w.Header())
	}
	if w := ask("GET", "/metadata/1.root.json"); w.Code != http.StatusOK || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
		t.Errorf("root: %d %q", w.Code, w.Header())
	}
	for _, path := range []string{
		"", "/", "/metadata", "/metadata/", "/metadata/9.root.json", "/metadata/.timestamp.json.tmp", "/metadata/link.json", "/private.json",
		"/metadata/../private.json", "/targets/../private.json", "/targets/policy", "/chunks/../metadata/timestamp.json", "//metadata/timestamp.json",
		"/metadata/\x00.json", "/targets/..%2fprivate.json", "/chunks/0000",
	} {
		if w := ask("GET", path); w.Code == http.StatusOK {
			t.Errorf("%q is served", path)
		}
	}
	if w := ask("PUT", "/metadata/timestamp.json"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("PUT: %d", w.Code)
	}
}
