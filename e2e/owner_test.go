package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/e2e/lab/image"
	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	contents "github.com/gatewarden/gatewarden/update/release"
)

// owner authors releases.
type owner struct {
	*world
	repo *release.Repo
	keys string // folder of the SSH keys
}

// newOwner makes a repository with the first release in it. Its chunks come out of
// the cache: to make them takes longer than many a story.
func newOwner(w *world, first image.Built) *owner {
	w.Helper()
	template, err := w.Cache.Get("owner", []string{first.Dir}, func(dir string) error {
		o := &owner{world: w}
		var err error
		if o.repo, err = release.Init(author(dir), release.DefaultInit(image.Product)); err != nil {
			return err
		}
		return o.add(first, 1)
	})
	w.check(err)
	o := &owner{world: w, keys: filepath.Join(w.dir, "keys")}
	dir := filepath.Join(w.dir, "owner")
	w.check(run("cp", "-r", template, dir))
	o.repo, err = release.Open(author(dir))
	w.check(err)
	w.check(o.add(first, 1)) // anew: what it signs may be another source's
	w.check(os.MkdirAll(o.keys, 0o700))
	w.check(run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", person, "-f", filepath.Join(o.keys, person)))
	return o
}

func author(dir string) release.Config {
	return release.Config{FS: &fsx.FS{}, Dir: filepath.Join(dir, "repository"), Now: time.Now}
}

// confirm is what a release must show before it may stay.
func confirm() contents.Confirm {
	return contents.Confirm{Checks: []contents.Criterion{{Check: "services", Within: 60}}, Link: true, Verdict: true, Timeout: 600}
}

// add builds a release into the draft.
func (o *owner) add(b image.Built, epoch uint64) error {
	_, err := o.repo.Build(o.Context(), release.BuildOptions{
		Product: image.Product, Channel: image.Channel, Version: b.Version, Epoch: epoch, Hardware: []string{image.Hardware},
		Rootfs: b.Rootfs, UKIA: b.UKI("a"), UKIB: b.UKI("b"), Loader: b.Loader, Confirm: confirm(),
	})
	return err
}

// publish signs what is in the draft and serves it.
func (o *owner) publish(to string) {
	o.Helper()
	_, err := o.repo.Policy(release.PolicyOptions{Fleet: fleetID})
	o.check(err)
	_, err = o.repo.Sign()
	o.check(err)
	_, err = o.repo.Publish(o.Context(), release.PublishOptions{To: to})
	o.check(err)
}

// release publishes a release.
func (o *owner) release(b image.Built, epoch uint64) {
	o.Helper()
	o.check(o.add(b, epoch))
	o.publish(o.settings.Updates)
}

// writeOperators lets one person do all.
func (o *owner) writeOperators(path string) {
	o.Helper()
	public, err := os.ReadFile(filepath.Join(o.keys, person+".pub"))
	o.check(err)
	doc := policy.Operators{
		Version: 1, Issued: time.Now().UTC(), Fleet: fleetID, Verbs: map[string]policy.Grant{},
		People: []policy.Person{{Name: person, Keys: []string{strings.TrimSpace(string(public))}}},
	}
	for _, verb := range []string{policy.VerbPing, policy.VerbAttest, policy.VerbRotate, policy.VerbLinkTest} {
		doc.Verbs[verb] = policy.Grant{People: []string{person}, Threshold: 1}
	}
	raw, err := json.Marshal(doc)
	o.check(err)
	o.check(os.WriteFile(path, raw, 0o644))
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}
