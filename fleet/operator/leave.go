package operator

import (
	"errors"
	"net/http"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// leave makes the acts that take a device out of its present life: at once and
// until a person approves it again (revoke), in good order (decommission), or to its next holder, who has to be
// approved like a new one (transfer: Pending). All that was granted ends at once.
func (a *api) leave(state string) func(*http.Request) (any, error) {
	kind := map[string]string{registry.Pending: "transferred"}[state]
	if kind == "" {
		kind = state
	}
	return func(r *http.Request) (any, error) {
		var decision Decision
		if err := readJSON(r, &decision); err != nil {
			return nil, err
		}
		switch {
		case decision.By == "":
			return nil, refuse(http.StatusBadRequest, "nobody is named as the one who decides", "give --by NAME")
		case decision.Reason == "":
			return nil, refuse(http.StatusBadRequest, "no reason is given", "give --reason TEXT: it stays in the records")
		}
		ctx, id := r.Context(), r.PathValue("id")
		err := a.Registry.Detach(ctx, id, state, decision.By, decision.Reason, a.Now())
		if errors.Is(err, registry.ErrState) {
			return nil, refuse(http.StatusConflict, id+" was revoked", "if it shall come back, approve with --accept-revoked; only then can it be transferred or decommissioned")
		}
		if err != nil {
			return nil, err
		}
		a.Drop(id)
		a.Drop(wire.QuarantineID(id))
		return struct{}{}, a.Registry.AddEvent(ctx, registry.Event{Device: id, At: a.Now(), Kind: "device." + kind, Severity: registry.Warning,
			Text: kind + " by " + decision.By + ": " + decision.Reason})
	}
}
