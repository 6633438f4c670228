package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/attest"
)

const (
	secretName = "vpn-key"
	secretUnit = "vpn.service"
)

// sealed seals a secret on both gateways; on the second the boot is altered then.
func sealed(ctx context.Context, w *world) ([]string, error) {
	w.secret = make([]byte, 32)
	_, _ = rand.Read(w.secret) // it can't fail (crypto/rand)
	for _, g := range w.gateways {
		if _, err := local.Seal(ctx, g.agentSocket(), secretName, local.Sealing{Unit: secretUnit, Data: w.secret}); err != nil {
			return nil, fmt.Errorf("seal on %s: %w", g.name, err)
		}
		if err := w.opens(ctx, g); err != nil {
			return nil, err
		}
	}
	g := w.gateways[0]
	if err := errors.Join(g.cut(), w.boot(ctx, g, "")); err != nil {
		return nil, err
	}
	if err := w.opens(ctx, g); err != nil {
		return nil, err
	}
	lines := []string{fmt.Sprintf("gateway-1: %d bytes sealed as %s to PCRs, epoch counter and Secure Boot state; after a power cut they open", len(w.secret), secretName)}
	why, err := w.staysShut(ctx, w.gateways[1])
	if err != nil {
		return lines, err
	}
	return append(lines, "gateway-2, booted with an altered command line: "+why, "booted as it should be, it opens again"), nil
}

// opens asks for the secret as soon as the agent is there.
func (w *world) opens(ctx context.Context, g *gateway) error {
	var got []byte
	err := await(ctx, g.name+" opens its secret", func() (bool, error) {
		if err := g.failed(); err != nil {
			return false, fatal{err}
		}
		var err error
		got, err = local.Unseal(ctx, g.agentSocket(), secretName)
		return err == nil, err
	})
	if err == nil && !bytes.Equal(got, w.secret) {
		err = fmt.Errorf("%s opened something else than was sealed", g.name)
	}
	return err
}

// staysShut boots g with an altered command line and returns why the secret did not
// open; then it heals g.
func (w *world) staysShut(ctx context.Context, g *gateway) (string, error) {
	if err := errors.Join(g.shutDown(), w.boot(ctx, g, alteredWords)); err != nil {
		return "", err
	}
	if _, err := g.awaitStatus(ctx, "is there", func(local.Status) bool { return true }); err != nil {
		return "", err
	}
	_, refusal := local.Unseal(ctx, g.agentSocket(), secretName)
	if refusal == nil || !strings.Contains(refusal.Error(), "PCR 12") {
		return "", fmt.Errorf("the secret in an altered boot: %v", refusal)
	}
	why, _, _ := strings.Cut(refusal.Error(), "\n")
	if err := errors.Join(g.shutDown(), w.boot(ctx, g, "")); err != nil {
		return why, err
	}
	if err := w.opens(ctx, g); err != nil {
		return why, err
	}
	_, err := g.awaitStatus(ctx, "has healed", func(s local.Status) bool {
		return s.Link.Connected && s.Link.Identity == g.id && s.Verdict != nil && s.Verdict.Grade == string(attest.Trusted)
	})
	return why, err
}

// opensAlone cuts the power of g while there is no fleet server.
func (w *world) opensAlone(ctx context.Context, g *gateway) error {
	if err := w.stopServer(); err != nil {
		return err
	}
	if err := errors.Join(g.cut(), w.boot(ctx, g, "")); err != nil {
		return err
	}
	if err := w.opens(ctx, g); err != nil {
		return err
	}
	if err := w.serve(); err != nil {
		return err
	}
	return w.recovered(ctx, g, time.Now())
}

// oldFile is where the secret lies; it is changed under the agent to show that a
// copy of before an update is of no use.
func oldFile(g *gateway) string { return g.path("state/secrets/" + secretName + ".sealed") }

// oldStaysShut puts a copy from before the epoch was raised back in place.
func (w *world) oldStaysShut(ctx context.Context, g *gateway, old []byte) (string, error) {
	now, err := os.ReadFile(oldFile(g))
	if err != nil {
		return "", err
	}
	if bytes.Equal(now, old) {
		return "", errors.New("the secret was not sealed anew for the new epoch")
	}
	if err := os.WriteFile(oldFile(g), old, 0o600); err != nil {
		return "", err
	}
	_, refusal := local.Unseal(ctx, g.agentSocket(), secretName)
	if err := os.WriteFile(oldFile(g), now, 0o600); err != nil {
		return "", err
	}
	if refusal == nil {
		return "", errors.New("a copy of the secret from before the epoch was raised opened")
	}
	why, _, _ := strings.Cut(refusal.Error(), "\n")
	return why, nil
}
