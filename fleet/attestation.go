package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/dispatch"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// attestation is the exchange over MQTT: hello -> challenge -> evidence -> verdict.
type attestation struct {
	verifier *verifier.Verifier
	store    *registry.Store
	send     *dispatch.Dispatcher
	log      *slog.Logger
}

// hello challenges a device that has just connected.
func (a *attestation) hello(ctx context.Context, device, identity string, _ wire.Hello) {
	challenge, err := a.verifier.Challenge(ctx, device)
	if err == nil {
		err = a.send.Send(ctx, identity, wire.KindChallenge, challenge)
	}
	if err != nil {
		a.log.Error("challenge device", "device", device, "error", err)
	}
}

// evidence judges an answer and tells the device.
func (a *attestation) evidence(ctx context.Context, device, identity string, payload []byte) {
	var ev attest.Evidence
	if err := strictjson.Unmarshal(payload, &ev); err != nil {
		a.log.Warn("malformed evidence", "device", device, "error", err)
		return
	}
	// The broker says which identity published, not which key; the quote signs the
	// keys, so the channel's is the one that the evidence claims first.
	verdict, err := a.verifier.Appraise(ctx, device, a.channel(ctx, device, identity, ev), ev)
	var refused *attest.Refusal
	switch {
	case errors.As(err, &refused):
		a.log.Warn("evidence refused", "device", device, "rule", refused.Rule, "reason", refused.Text)
		return
	case err != nil:
		a.log.Error("appraise evidence", "device", device, "error", err)
		return
	}
	if err := a.send.Send(ctx, identity, wire.KindVerdict, verdict); err != nil {
		a.log.Error("send verdict", "device", device, "error", err)
	}
}

// channel finds the key of the connection: one of the identity's certificates
// that are good, and among the keys that the evidence names.
func (a *attestation) channel(ctx context.Context, device, identity string, ev attest.Evidence) verifier.Channel {
	var claims attest.Claims
	if json.Unmarshal(ev.Claims, &claims) != nil {
		return verifier.Channel{}
	}
	certificates, err := a.store.Certificates(ctx, device)
	if err != nil {
		return verifier.Channel{}
	}
	for _, c := range certificates {
		for _, key := range claims.Keys {
			if c.Identity == identity && c.SPKI == key && c.RevokedAt.IsZero() {
				return verifier.Channel{SPKI: key}
			}
		}
	}
	return verifier.Channel{SPKI: "none of " + identity}
}
