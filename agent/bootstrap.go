package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	caFile    = "ca.pem"
	caPatient = time.Minute // the longest rest between two attempts
)

// rooted completes a fleet.json that names no anchors by the one that agent.toml
// pins by its fingerprint, if that was fetched before.
func (a *Agent) rooted(f *policy.Fleet) (*policy.Fleet, error) {
	if len(f.Anchors) > 0 {
		return f, nil
	}
	pin := a.settings.Identity.CA
	if pin == "" {
		return nil, fmt.Errorf("%s names no anchors\nhint: set `identity.ca` in agent.toml to the fingerprint of the fleet's CA", policy.FleetFile)
	}
	raw, err := a.fs.ReadFile(a.path(caFile), 2*wire.MaxCertificate)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the fleet's CA: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil || fingerprint(block.Bytes) != pin {
		return f, nil // fetchCA brings another
	}
	with := *f
	with.Anchors = []string{string(raw)}
	return &with, nil
}

// fetchCA asks the fleet for its CA until the pinned one comes (RFC 7030, section
// 4.1.1). Until then no server is believed, so nothing else can begin.
func (a *Agent) fetchCA(ctx context.Context) error {
	for attempt, told := 0, ""; len(a.fleet.Load().Anchors) == 0; attempt++ {
		err := a.tryCA(ctx)
		if err == nil {
			a.event("ca.fetched", "the fleet's CA has the fingerprint that agent.toml pins")
			a.identity.Kick("the fleet's CA is known")
			return nil
		}
		if told != err.Error() {
			told = err.Error()
			a.event("ca.refused", told)
			a.log.Error("fetch the fleet's CA", "error", err)
		}
		rest := time.NewTimer(mqttconn.Backoff(attempt, caPatient, rand.Float64()))
		select {
		case <-ctx.Done():
			rest.Stop()
			return ctx.Err()
		case <-rest.C:
		}
	}
	return nil
}

func (a *Agent) tryCA(ctx context.Context) error {
	certs, err := a.identity.CACerts(ctx)
	if err != nil {
		return err
	}
	var shown []string
	for _, c := range certs {
		found := fingerprint(c.Raw)
		if shown = append(shown, found); found != a.settings.Identity.CA || !c.IsCA {
			continue
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		if err := a.fs.WriteFile(a.path(caFile), text, 0o600); err != nil {
			return fmt.Errorf("keep the fleet's CA: %w", err)
		}
		with, err := a.rooted(a.fleet.Load())
		if err == nil {
			a.fleet.Store(with)
		}
		return err
	}
	return fmt.Errorf("the fleet shows CAs with the fingerprints %v and not %s, which `identity.ca` pins: another server answers, or the pin is wrong", shown, a.settings.Identity.CA)
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// parsePin takes a fingerprint as sha256sum writes it or as openssl does (capitals,
// colons).
func parsePin(text string) (string, error) {
	pin := strings.ToLower(strings.ReplaceAll(text, ":", ""))
	if raw, err := hex.DecodeString(pin); pin != "" && (err != nil || len(raw) != sha256.Size) {
		return "", errors.New("`identity.ca` must be a SHA-256 fingerprint: 64 hexadecimal digits")
	}
	return pin, nil
}
