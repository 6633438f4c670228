package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/e2e/lab/image"
	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
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
		if o.repo, err = release.Init(author(dir, time.Now), release.DefaultInit(image.Product)); err != nil {
			return err
		}
		return o.add(first, 1)
	})
	w.check(err)
	o := &owner{world: w, keys: filepath.Join(w.dir, "keys")}
	dir := filepath.Join(w.dir, "owner")
	w.check(run("cp", "-r", template, dir))
	o.repo, err = release.Open(author(dir, w.now))
	w.check(err)
	w.check(o.add(first, 1)) // anew: what it signs may be another source's
	w.check(os.MkdirAll(o.keys, 0o700))
	w.check(run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", person, "-f", filepath.Join(o.keys, person)))
	return o
}

func author(dir string, now func() time.Time) release.Config {
	return release.Config{FS: &fsx.FS{}, Dir: filepath.Join(dir, "repository"), Now: now}
}

// confirm is what a release must show before it may stay.
func confirm() contents.Confirm {
	return contents.Confirm{Checks: []contents.Criterion{{Check: "services", Within: 60}}, Link: true, Verdict: true, Timeout: 600}
}

// keyForSystemd gives the product a PCR-policy key as systemd takes them, and returns
// its public half.
func (o *owner) keyForSystemd() []byte {
	o.Helper()
	const name = "repository/keys/pcr-" + image.Product + "-2.pem"
	path := filepath.Join(o.dir, "owner", name)
	o.check(run("openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path))
	o.check(o.repo.RotatePolicyKey(image.Product))
	public, err := exec.Command("openssl", "pkey", "-in", path, "-pubout").Output()
	o.check(err)
	return public
}

// withSignatures puts into a release's boot images what systemd opens by in their boots.
func (o *owner) withSignatures(b image.Built) image.Built {
	o.Helper()
	dir := filepath.Join(o.dir, "signed-"+b.Version)
	o.check(os.MkdirAll(dir, 0o755))
	signatures := filepath.Join(dir, "tpm2-pcr-signature.json")
	for _, slot := range []string{"a", "b"} {
		raw, err := o.repo.SystemdSignatures(image.Product, b.UKI(slot), b.Loader, nil)
		o.check(err)
		o.check(os.WriteFile(signatures, raw, 0o644))
		o.check(image.AddSection(b.UKI(slot), filepath.Join(dir, filepath.Base(b.UKI(slot))), ".pcrsig", signatures))
	}
	b.Dir = dir
	return b
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

// command is signed for the gateway as an operator does it. It proves itself fresh by
// the gateway's challenge: no time source sets a clock in the lab.
func (o *owner) command(verb string) wire.Envelope {
	o.Helper()
	d, err := o.api.Device(o.Context(), o.id)
	o.check(err)
	var health wire.Health
	o.check(json.Unmarshal(d.Health, &health))
	now := o.now().UTC().Truncate(time.Second)
	raw, err := json.Marshal(wire.Command{
		Version: 1, Fleet: fleetID, Devices: []string{o.id}, ID: fmt.Sprintf("%s-%016x", verb, time.Now().UnixNano()), Verb: verb, Reason: "lab",
		NotBefore: now.Add(-5 * time.Minute), Expires: now.Add(time.Hour), Challenge: map[string][]byte{o.id: health.Challenge},
	})
	o.check(err)
	file := filepath.Join(o.dir, "command.json")
	o.check(os.WriteFile(file, raw, 0o600))
	o.check(run("ssh-keygen", "-q", "-Y", "sign", "-n", wire.CommandNamespace, "-f", filepath.Join(o.keys, person), file))
	signature, err := os.ReadFile(file + ".sig")
	o.check(errors.Join(err, os.Remove(file+".sig")))
	return wire.Envelope{Command: raw, Signatures: []string{string(signature)}}
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}
