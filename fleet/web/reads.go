package web

import (
	"context"
	"encoding/json"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// Registry is what the pages read. A page makes each call at most once.
type Registry interface {
	Fleet
	Judgements
	History
	// Subscribe tells of devices that changed ("" for the fleet itself), each
	// once until it was read, and until cancel is called.
	Subscribe() (changed <-chan string, cancel func())
}

// Fleet reads devices. Device of an unknown id is registry.ErrNotFound; Releases
// counts devices by release ("product version").
type Fleet interface {
	Counts(ctx context.Context) ([]registry.Count, error)
	Devices(ctx context.Context, f registry.Filter) ([]registry.DeviceRow, error)
	Device(ctx context.Context, id string) (registry.Device, error)
	Releases(ctx context.Context, names []string) (map[string]registry.ReleaseCount, error)
}

// Judgements reads what a device was judged by. LastVerdict is
// registry.ErrNotFound before the first; Firmware elements are
// attest.FirmwareSet in JSON.
type Judgements interface {
	LastVerdict(ctx context.Context, device string) (registry.Verdict, error)
	Firmware(ctx context.Context, model string) ([]json.RawMessage, error)
	Proposals(ctx context.Context, limit int) ([]registry.Proposal, error)
}

// History reads what a device did, newest first. Health is
// registry.ErrNotFound before the first.
type History interface {
	Health(ctx context.Context, device string) (registry.Message, error)
	Certificates(ctx context.Context, device string) ([]registry.Certificate, error)
	Commands(ctx context.Context, device string, limit int) ([]registry.CommandRecord, error)
	Events(ctx context.Context, device string, before int64, limit int) ([]registry.Event, error)
	Updates(ctx context.Context, device string, limit int) ([]registry.UpdateRecord, error)
}

var _ Registry = (*registry.Store)(nil)
