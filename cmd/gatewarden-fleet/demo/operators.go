package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// keyring holds the SSH keys of the demo's people, made and used by ssh-keygen.
type keyring struct{ dir string }

func newKeyring(ctx context.Context, dir string) (*keyring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	k := &keyring{dir}
	for _, name := range []string{person, bystander} {
		if _, err := sshKeygen(ctx, nil, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func sshKeygen(ctx context.Context, input []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "ssh-keygen", args...)
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("ssh-keygen is missing: install the package openssh-client (make setup)")
	}
	if err != nil {
		return nil, fmt.Errorf("ssh-keygen: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// writeOperators writes the policy that says who may do what: one person all,
// the other nothing.
func (k *keyring) writeOperators(path string) error {
	doc := policy.Operators{Version: 1, Issued: time.Now().UTC(), Fleet: fleetID, Verbs: map[string]policy.Grant{}}
	for _, name := range []string{person, bystander} {
		public, err := os.ReadFile(filepath.Join(k.dir, name+".pub"))
		if err != nil {
			return err
		}
		doc.People = append(doc.People, policy.Person{Name: name, Keys: []string{strings.TrimSpace(string(public))}})
	}
	for _, verb := range []string{policy.VerbPing, policy.VerbAttest, policy.VerbRotate, policy.VerbLinkTest} {
		doc.Verbs[verb] = policy.Grant{People: []string{person}, Threshold: 1}
	}
	raw, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o644)
}

// command makes a command for one device that is good for five minutes. It carries
// the device's challenge, so that it also holds where no time source has set the
// clock.
func (w *world) command(ctx context.Context, g *gateway, verb string, args any) (wire.Command, error) {
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return wire.Command{}, err
	}
	now := time.Now().UTC()
	c := wire.Command{
		Version: 1, Fleet: fleetID, Devices: []string{g.id}, ID: verb + "-" + hex.EncodeToString(id), Verb: verb,
		NotBefore: now.Add(-time.Minute), Expires: now.Add(5 * time.Minute), Reason: "demo",
	}
	if args != nil {
		raw, err := json.Marshal(args)
		if err != nil {
			return c, err
		}
		c.Args = raw
	}
	challenge, err := w.challenge(ctx, g)
	if err == nil {
		c.Challenge = map[string][]byte{g.id: challenge}
	}
	return c, err
}

// challenge is what the device asked for in its last health message.
func (w *world) challenge(ctx context.Context, g *gateway) ([]byte, error) {
	var challenge []byte
	err := await(ctx, g.name+" reports health", func() (bool, error) {
		d, err := w.api.Device(ctx, g.id)
		if err != nil || len(d.Health) == 0 {
			return false, err
		}
		var h wire.Health
		err = json.Unmarshal(d.Health, &h)
		challenge = h.Challenge
		return err == nil && len(challenge) > 0, err
	})
	return challenge, err
}

// sign has ssh-keygen sign a command for each of names.
func (k *keyring) sign(ctx context.Context, c wire.Command, names ...string) (wire.Envelope, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return wire.Envelope{}, err
	}
	e := wire.Envelope{Command: raw, Signatures: []string{}}
	for _, name := range names {
		signature, err := sshKeygen(ctx, raw, "-q", "-Y", "sign", "-n", wire.CommandNamespace, "-f", filepath.Join(k.dir, name))
		if err != nil {
			return wire.Envelope{}, err
		}
		e.Signatures = append(e.Signatures, string(signature))
	}
	return e, nil
}

// send hands an envelope in and waits for the nth receipt to it.
func (w *world) send(ctx context.Context, g *gateway, e wire.Envelope, nth int) (operator.Receipt, error) {
	hash, err := w.api.Command(ctx, g.id, e)
	if err != nil {
		return operator.Receipt{}, err
	}
	return w.receipt(ctx, g, hash, nth)
}

func (w *world) receipt(ctx context.Context, g *gateway, hash string, nth int) (operator.Receipt, error) {
	var got operator.Receipt
	err := await(ctx, fmt.Sprintf("%s answers command %.12s", g.name, hash), func() (bool, error) {
		d, err := w.api.Device(ctx, g.id)
		if err != nil {
			return false, err
		}
		for _, c := range d.Commands {
			if c.Envelope == hash && len(c.Receipts) >= nth {
				got = c.Receipts[nth-1]
				return true, nil
			}
		}
		if err := g.failed(); err != nil {
			return false, fatal{err}
		}
		return false, nil
	})
	return got, err
}

// do signs a command, sends it and returns its receipt, which must say "done".
func (w *world) do(ctx context.Context, g *gateway, verb string, args any) (operator.Receipt, wire.Envelope, error) {
	c, err := w.command(ctx, g, verb, args)
	if err != nil {
		return operator.Receipt{}, wire.Envelope{}, err
	}
	e, err := w.keys.sign(ctx, c, person)
	if err != nil {
		return operator.Receipt{}, e, err
	}
	r, err := w.send(ctx, g, e, 1)
	if err == nil && r.Outcome != wire.OutcomeDone {
		err = fmt.Errorf("%s was not done: %s (%s)", verb, r.Text, r.Outcome)
	}
	return r, e, err
}
