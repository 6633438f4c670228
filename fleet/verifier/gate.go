package verifier

import (
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// GateFor says what certificate a device may have.
func GateFor(grade attest.Grade, state string) wire.Gate {
	switch {
	case registry.Out(state):
		return wire.GateRevoked
	case grade == attest.Trusted:
		return wire.GateFull
	case grade == attest.Degraded:
		return wire.GateShort
	}
	return wire.GateQuarantine
}
