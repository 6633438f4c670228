package fleet

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/testdata/boot"
	contents "github.com/gatewarden/gatewarden/update/release"
)

// publish builds and publishes a release of the fleet lab.
func publish(t *testing.T, repo *release.Repo, version, to string, owner release.PolicyOptions) {
	t.Helper()
	dir := t.TempDir()
	rootfs, uki := filepath.Join(dir, "rootfs"), filepath.Join(dir, "uki")
	write(t, "root file system of "+version, rootfs)
	if err := os.WriteFile(uki, boot.UKI("kernel of "+version, "VERSION_ID="+version, "root=a"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := repo.Build(t.Context(), release.BuildOptions{
		Product: "lab", Channel: "stable", Version: version, Epoch: 1, Hardware: []string{"bench"}, Rootfs: rootfs, UKI: uki,
		Confirm: contents.Confirm{Timeout: 60},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Policy(owner); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Sign(); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Publish(t.Context(), release.PublishOptions{To: to}); err != nil {
		t.Fatal(err)
	}
}

// withRepository is an installed server, and its owner's repository with its root.
func withRepository(t *testing.T) (Settings, *release.Repo, []byte) {
	t.Helper()
	s := installed(t)
	s.Updates = filepath.Join(s.State, "updates")
	repo, err := release.Init(release.Config{FS: &fsx.FS{}, Dir: t.TempDir(), Now: time.Now}, release.DefaultInit("lab"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := repo.Root()
	if err != nil {
		t.Fatal(err)
	}
	return s, repo, root
}

// The lists of files that a policy names come with it: from the repository, or from
// beside the policy file. Without them it is not taken.
func TestListsOfFilesComeWithThePolicy(t *testing.T) {
	s, repo, root := withRepository(t)
	list := fmt.Appendf(nil, "%x  /usr/bin/true\n", sha256.Sum256(nil))
	authored := attest.Policy{Version: 1, Issued: time.Now().UTC(), Fleet: "lab", Releases: []attest.Release{}, IMA: &attest.IMAPolicy{Lists: []attest.Digest{sha256.Sum256(list)}}}
	raw, err := json.Marshal(authored)
	if err != nil {
		t.Fatal(err)
	}
	owner := release.PolicyOptions{Attest: raw}
	if _, err := repo.Policy(owner); err == nil || !strings.Contains(err.Error(), "it is not in the repository") {
		t.Errorf("published without its list: %v", err)
	}
	owner.List = func(attest.Digest) ([]byte, error) { return list, nil }
	write(t, string(owner.Attest), s.Policy)
	if _, err := New(s, "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), authored.IMA.Lists[0].String()) {
		t.Errorf("taken without the list beside it: %v", err)
	}
	if err := os.Mkdir(filepath.Join(filepath.Dir(s.Policy), "ima"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, string(list), filepath.Dir(s.Policy), attest.IMAList(authored.IMA.Lists[0]))
	srv, err := New(s, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv.Close()
	if err := os.Remove(s.Policy); err != nil {
		t.Fatal(err)
	}
	write(t, string(root), filepath.Join(s.State, "trust", "root.json"))
	publish(t, repo, "1.0.0", s.Updates, owner)
	if srv, err = New(s, "test", slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	publish(t, repo, "2.0.0", s.Updates, release.PolicyOptions{Fleet: "lab"})
	if p := srv.currentPolicy(); len(p.Releases) != 2 || !slices.Contains(p.Describe(time.Now()), "good: 1 files of 1 lists, and files signed by one of 0 keys") {
		t.Errorf("%q", p.Describe(time.Now()))
	}
}

// Reference values come with what the owner signed, at once; a folder that somebody
// else wrote to changes nothing.
func TestPolicyFollowsWhatTheOwnerPublishedAndNothingElse(t *testing.T) {
	s, repo, root := withRepository(t)
	write(t, string(root), filepath.Join(s.State, "trust", "root.json"))
	owner := release.PolicyOptions{Fleet: "lab"}
	publish(t, repo, "1.0.0", s.Updates, owner)
	srv, err := New(s, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	want := func(n int) {
		t.Helper()
		if releases, _ := srv.releases(t.Context()); len(releases) != n {
			t.Errorf("%d releases are listed, want %d", len(releases), n)
		}
		if got := len(srv.currentPolicy().Releases); got != n {
			t.Errorf("the policy in force knows %d releases, want %d", got, n)
		}
	}
	want(1)
	publish(t, repo, "2.0.0", s.Updates, owner)
	want(2)
	timestamp := filepath.Join(s.Updates, "metadata", "timestamp.json")
	write(t, `{"signed":{},"signatures":[]}`, timestamp)
	want(2)
	if _, err := srv.releases(t.Context()); err == nil {
		t.Error("nothing says that what is served now was not taken in")
	}
	if err := os.RemoveAll(s.Updates); err != nil {
		t.Fatal(err)
	}
	want(2)
}
