package fleet

import (
	"context"
	"errors"
	"log/slog"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/dispatch"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// attestation is the exchange over MQTT: hello -> challenge -> evidence -> verdict.
type attestation struct {
	verifier *verifier.Verifier
	send     *dispatch.Dispatcher
	log      *slog.Logger
}

// hello challenges a device that has just connected.
func (a *attestation) hello(ctx context.Context, device, identity string, _ wire.Hello) {
	a.challenge(ctx, device, identity)
}

func (a *attestation) challenge(ctx context.Context, device, identity string) {
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
	// The broker says which identity published, not by which key: a good key of that
	// identity is what the evidence must claim.
	verdict, err := a.verifier.Appraise(ctx, device, verifier.Channel{Identity: identity}, ev)
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
	switch more, err := a.verifier.Unfinished(ctx, device); {
	case err != nil:
		a.log.Error("read what was judged", "device", device, "error", err)
	case more:
		a.challenge(ctx, device, identity)
	}
}
