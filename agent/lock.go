package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/update"
)

// errLocked is what seals and unseals get after the lock.
var errLocked = errors.New("secrets are shut until the next boot, because this device was put into quarantine")

// lockEnding makes the name of the note from that of the agent's socket: it lies in
// memory that no boot outlives. It is written before the lock, so that no other agent
// of this boot extends PCR 11 again: the fleet knows the lock once.
const lockEnding = ".locked"

type lockRecord struct {
	Version int              `json:"v"`     // 1
	Before  tpmpolicy.Digest `json:"pcr11"` // what PCR 11 was before the lock
}

// lockInQuarantine shuts what is sealed, for the rest of this boot, when the device
// is in quarantine (ADR 016).
func (a *Agent) lockInQuarantine(ctx context.Context) error {
	for {
		if err := a.lock(ctx, a.inQuarantine()); err != nil && ctx.Err() == nil {
			a.log.Error("shut secrets", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.shut:
		}
	}
}

// inQuarantine takes both the certificate, which the fleet's CA issued, and a verdict
// on this boot: after a reboot the certificate is still there, an old verdict may come
// late, and the boot may be good. A boot on trial is not locked, since its secrets
// could not be carried over: an update is what heals. Nor is one whose secrets must
// open for the next update.
func (a *Agent) inQuarantine() bool {
	c, ok := a.identity.Current()
	if !ok {
		return false
	}
	_, quarantined, _ := wire.DeviceOf(c.Identity)
	v := a.ofBoot.Load()
	if !quarantined || v == nil || v.Gate != wire.GateQuarantine || a.onTrial() {
		return false
	}
	named, err := a.secrets.NamesBoots()
	if err != nil {
		a.log.Error("look at secrets before they are shut", "error", err)
	}
	return !named
}

// onTrial says whether an update is between the reboot into it and its end.
func (a *Agent) onTrial() bool {
	if a.updates == nil {
		return false
	}
	state := a.updates.Status().State
	return state == update.Trying || state == update.Confirming || state == update.Committing
}

// lock notes whether this boot is locked, and locks it if it must and is not.
func (a *Agent) lock(ctx context.Context, must bool) error {
	var record lockRecord
	path := a.settings.Socket + lockEnding
	err := a.fs.ReadJSON(path, 4<<10, &record)
	began := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read whether secrets are shut: %w", err)
	}
	if a.locked.Load() || !began && !must {
		return nil
	}
	now, err := a.tpm.ReadPCRs(ctx, []int{11})
	if err != nil {
		return err
	}
	if began && record.Before != now[11] {
		a.locked.Store(true)
		return nil
	}
	if err := a.fs.WriteJSON(path, lockRecord{Version: 1, Before: now[11]}, 0o600); err != nil {
		return fmt.Errorf("note that secrets are shut: %w", err)
	}
	if err := seal.Lock(ctx, a.tpm); err != nil {
		return err
	}
	a.locked.Store(true)
	a.event("secret.locked", "the device is in quarantine: what is sealed stays shut until the next boot")
	return nil
}

// considerLock has lockInQuarantine look again.
func (a *Agent) considerLock() {
	select {
	case a.shut <- struct{}{}:
	default:
	}
}
