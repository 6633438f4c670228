package verifier

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

// answer is what is kept of the last evidence that was judged, without its logs.
type answer struct {
	Evidence attest.Evidence `json:"evidence"`
	Keys     []string        `json:"keys"` // that its claims name
}

func answerOf(ev attest.Evidence, r *attest.Result) *answer {
	ev.EventLog.Bytes, ev.EventLog.Offset, ev.IMALog = nil, 0, attest.Log{}
	return &answer{Evidence: ev, Keys: r.Claims().Keys}
}

// Recorded returns the evidence behind the last verdict on a device, whole but for
// the IMA list, which the fleet does not keep. registry.ErrNotFound before the
// first, and where its event log is not held any more.
func Recorded(ctx context.Context, store *registry.Store, fleet, device string) (*attest.Recorded, error) {
	d, err := store.Device(ctx, device)
	if err != nil {
		return nil, err
	}
	m, err := recall(ctx, store, device)
	if err != nil {
		return nil, err
	}
	if m.Answer == nil {
		return nil, fmt.Errorf("read evidence of %s: %w", device, registry.ErrNotFound)
	}
	verdict, err := store.LastVerdict(ctx, device)
	if err != nil {
		return nil, err
	}
	r := &attest.Recorded{
		Version: 1, Fleet: fleet, Device: device, Model: d.Model, At: verdict.At, AK: d.AKPublic, Keys: m.Answer.Keys,
		Trusted: m.Attest.Trusted, Evidence: m.Answer.Evidence,
	}
	if digest := r.Evidence.EventLog.Digest; !digest.IsZero() {
		if r.Evidence.EventLog.Bytes, err = store.Log(ctx, hex.EncodeToString(digest[:])); err != nil {
			return nil, err
		}
	}
	r.Firmware, err = approved(ctx, store, d.Model)
	return r, err
}
