package release_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/store"
	target "github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/fetch"
)

// device is a client of what Handler serves.
type device struct {
	*tuf.Client
	t   *testing.T
	url string
}

func (a *author) device(root []byte) *device {
	a.t.Helper()
	server := httptest.NewServer(http.StripPrefix("/v1/tuf", release.Handler(a.served)))
	a.t.Cleanup(server.Close)
	from := func(name string) tuf.Fetcher {
		f, err := fetch.New(fetch.Config{Base: server.URL + "/v1/tuf/" + name, Client: server.Client(), MinRate: 1, Window: time.Minute})
		must(a.t, err)
		return f
	}
	c, err := tuf.New(tuf.Config{
		FS: &fsx.FS{}, Dir: filepath.Join(a.t.TempDir(), "tuf"), Root: root,
		Metadata: from("metadata"), Targets: from("targets"), Now: func() time.Time { return a.now },
	})
	must(a.t, err)
	return &device{Client: c, t: a.t, url: server.URL + "/v1/tuf/"}
}

func (d *device) download(path string) []byte {
	d.t.Helper()
	found, err := d.Target(context.Background(), path)
	must(d.t, err)
	var data bytes.Buffer
	must(d.t, d.Download(context.Background(), found, &data))
	return data.Bytes()
}

// root is what a device pins.
func (a *author) root(version int) []byte {
	a.t.Helper()
	data, err := os.ReadFile(filepath.Join(a.dir, "metadata", strconv.Itoa(version)+".root.json"))
	must(a.t, err)
	return data
}

func TestAReleaseFromImageToDevice(t *testing.T) {
	a := newAuthor(t)
	built := a.build("1.0.0", 2)
	a.reopen()
	_, err := a.repo.Policy(release.PolicyOptions{Fleet: "lab"})
	must(t, err)
	a.sign()
	a.publish()

	d := a.device(a.root(1))
	must(t, d.Refresh(t.Context()))
	found, err := d.Target(t.Context(), built.Target)
	must(t, err)
	if found.Role() != release.Releases {
		t.Errorf("role %s speaks for the release", found.Role())
	}
	r, err := target.Parse(found.Custom())
	must(t, err)
	if len(r.Images) != 2 || len(r.PCRPolicies) != 2*6 || r.Epoch != 2 {
		t.Errorf("%d images, %d PCR policies, epoch %d", len(r.Images), len(r.PCRPolicies), r.Epoch)
	}
	must(t, r.Applies(target.Device{Product: "edge", Channel: "stable", Hardware: "Acme G1", Version: "0.9.0", Epoch: 1}))
	for _, image := range r.Images {
		if got := sha256.Sum256(d.image(image)); got != image.SHA256 {
			t.Errorf("image %s comes out as %x", image.Name, got)
		}
	}
	policy, err := attest.ParsePolicy(d.download("policy/attest.json"))
	must(t, err)
	if len(policy.Releases) != 1 || policy.Releases[0].Name() != "edge 1.0.0" {
		t.Errorf("the attestation policy lists %v", policy.Releases)
	}
	secondOpinion(t, a)
}

// image fetches an image chunk by chunk.
func (d *device) image(about target.Image) []byte {
	d.t.Helper()
	index, err := chunk.Parse(d.download(about.Index))
	must(d.t, err)
	dir := d.t.TempDir()
	var data []byte
	for i := range index.Len() {
		one := index.At(i)
		res, err := http.Get(d.url + "chunks/" + one.ID.Path())
		must(d.t, err)
		var packed bytes.Buffer
		_, err = packed.ReadFrom(res.Body)
		must(d.t, err)
		must(d.t, res.Body.Close())
		path := filepath.Join(dir, filepath.FromSlash(one.ID.Path()))
		must(d.t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(d.t, os.WriteFile(path, packed.Bytes(), 0o644))
	}
	place, err := store.Dir(&fsx.FS{}, dir)
	must(d.t, err)
	s, err := store.New(store.Config{Place: place, Algorithm: index.Algorithm(), Timeout: time.Minute})
	must(d.t, err)
	defer s.Close()
	for i := range index.Len() {
		piece, err := s.Chunk(context.Background(), index.At(i).ID, index.At(i).Size)
		must(d.t, err)
		data = append(data, piece...)
	}
	return data
}

// secondOpinion lets go-tuf judge what is served, from the first root on.
func secondOpinion(t *testing.T, a *author) {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(a.served, "metadata", name))
		must(t, err)
		return data
	}
	trusted, err := trustedmetadata.New(read("1.root.json"))
	must(t, err)
	trusted.RefTime = a.now
	for v := 2; ; v++ {
		data, err := os.ReadFile(filepath.Join(a.served, "metadata", strconv.Itoa(v)+".root.json"))
		if os.IsNotExist(err) {
			break
		}
		must(t, err)
		_, err = trusted.UpdateRoot(data)
		must(t, err)
	}
	timestamp, err := trusted.UpdateTimestamp(read("timestamp.json"))
	must(t, err)
	version := func(n int64) string { return strconv.FormatInt(n, 10) }
	snapshot, err := trusted.UpdateSnapshot(read(version(timestamp.Signed.Meta["snapshot.json"].Version)+".snapshot.json"), false)
	must(t, err)
	_, err = trusted.UpdateTargets(read(version(snapshot.Signed.Meta["targets.json"].Version) + ".targets.json"))
	must(t, err)
	_, err = trusted.UpdateDelegatedTargets(read(version(snapshot.Signed.Meta["releases.json"].Version)+".releases.json"), "releases", "targets")
	must(t, err)
}

func TestEveryStepDoneAgainChangesNothing(t *testing.T) {
	a := newAuthor(t)
	steps := []func(){
		func() { a.build("1.0.0", 1) },
		func() {
			_, err := a.repo.Policy(release.PolicyOptions{Fleet: "lab"})
			must(t, err)
		},
		func() { a.sign() },
		func() { a.publish() },
	}
	for i, step := range steps {
		step()
		before, served := tree(t, a.dir), map[string][]byte{}
		if i == len(steps)-1 {
			served = tree(t, a.served)
		}
		a.reopen()
		a.now = a.now.Add(time.Minute)
		step()
		if !same(before, tree(t, a.dir)) {
			t.Errorf("step %d, done again, changes the author's folder", i)
		}
		if i == len(steps)-1 && !same(served, tree(t, a.served)) {
			t.Errorf("publishing again changes the served folder")
		}
	}
	// Also a build of what is published already is no change.
	a.build("1.0.0", 1)
	for _, s := range a.sign() {
		if s.Changed {
			t.Errorf("%s has a new version", s.Role)
		}
	}
}

func TestASecondReleaseAddsOnlyWhatDiffers(t *testing.T) {
	a := newAuthor(t)
	a.build("1.0.0", 1)
	a.sign()
	a.publish()
	built := a.build("1.1.0", 1)
	a.sign()
	done := a.publish()
	if root := built.Images[0]; root.Added == 0 || root.Added > root.Chunks/2 {
		t.Errorf("of %d chunks %d are new", root.Chunks, root.Added)
	}
	if done.Chunks != built.Images[0].Added+built.Images[1].Added {
		t.Errorf("%d chunks are copied, %d+%d are new", done.Chunks, built.Images[0].Added, built.Images[1].Added)
	}
}

// TestChunksOfARepositoryKeepTheirDigest: with another one a gateway would find none
// of what it has, and fetch all.
func TestChunksOfARepositoryKeepTheirDigest(t *testing.T) {
	a := newAuthor(t)
	settings := filepath.Join(a.dir, "repo.json")
	index := func(version string) string {
		a.build(version, 1)
		found, err := filepath.Glob(filepath.Join(a.dir, "targets", "releases", "*", "*", version, "*rootfs.caibx"))
		if err != nil || len(found) != 1 {
			t.Fatalf("indexes of %s: %v, %v", version, found, err)
		}
		data, err := os.ReadFile(found[0])
		must(t, err)
		ix, err := chunk.Parse(data)
		must(t, err)
		return ix.Algorithm().String()
	}
	if got := index("1.0.0"); got != "sha256" {
		t.Errorf("a new repository's digest is %s", got)
	}
	data, err := os.ReadFile(settings)
	must(t, err)
	var set map[string]any
	must(t, json.Unmarshal(data, &set))
	delete(set, "digest")
	before, err := json.Marshal(set)
	must(t, err)
	must(t, os.WriteFile(settings, before, 0o600))
	a.reopen()
	if got := index("1.1.0"); got != "sha512-256" {
		t.Errorf("the digest of a repository from before is %s", got)
	}
}

func TestTheSignedReleaseCarriesTheReferenceOfItsBoot(t *testing.T) {
	a := newAuthor(t)
	o := a.options("1.0.0", 1)
	a.build("1.0.0", 1)
	list, err := a.repo.List()
	must(t, err)
	var got attest.Release
	must(t, json.Unmarshal(list[0].Reference, &got))
	uki, err := os.ReadFile(o.UKI)
	must(t, err)
	loader, err := os.ReadFile(o.Loader)
	must(t, err)
	b, err := attest.ReadUKI(uki, loader)
	must(t, err)
	want := b.Release("edge", "1.0.0")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("reference is %+v, the boot measures %+v", got, want)
	}
}
