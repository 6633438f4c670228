package helper

import (
	"context"

	"github.com/gatewarden/gatewarden/internal/helperwire"
)

// slots answers with what the machine's slots hold.
func (s *server) slotsVerb(ctx context.Context, _ helperwire.Request) (answer, error) {
	b, err := s.books(ctx)
	if err != nil {
		return answer{}, err
	}
	return answer{Response: helperwire.Response{Slots: &helperwire.Slots{
		Product: b.product.Product, Channel: b.product.Channel, Hardware: b.product.Hardware, Running: b.running, Trial: b.trial,
		Version: b.slots[b.running].Release, Epoch: b.floor.Epoch, Slots: b.slots,
		Counter: b.counter, CounterRecord: b.record,
	}}}, nil
}

// try boots, once, what an install session verified as a whole. That session's
// signed release is the authority; the record of it is ours.
func (s *server) try(ctx context.Context, r helperwire.Request) (answer, error) {
	b, err := s.books(ctx)
	if err != nil {
		return answer{}, err
	}
	spare, now := b.spare(), b.slots[b.spare()]
	switch {
	case b.trial:
		return answer{}, refuse("trial", "Slot %s runs on trial: commit it or roll back first.", b.running)
	case !waits(now) || now.Release != r.Release:
		return answer{}, refuse("incomplete", "Slot %s does not hold a whole and verified release %.70q.", spare, r.Release)
	case now.Epoch < b.floor.Epoch:
		return answer{}, refuse("epoch", "Release %s has security epoch %d, this device has reached %d.", now.Release, now.Epoch, b.floor.Epoch)
	}
	if err := s.mark(b, spare, helperwire.SlotTrying); err != nil {
		return answer{}, err
	}
	if err := s.Updates.Loader.TryNext(spare); err != nil {
		return answer{}, err
	}
	s.Log.Info("release is tried", "slot", spare, "release", now.Release)
	return answer{after: s.Reboot}, nil
}

// waits says whether a slot holds a whole release that was not committed yet.
func waits(slot helperwire.Slot) bool {
	return slot.State == helperwire.SlotComplete || slot.State == helperwire.SlotTrying
}

// commit keeps the release that runs on trial. Asked again, it finishes what a
// power cut left.
func (s *server) commit(ctx context.Context, r helperwire.Request) (answer, error) {
	b, err := s.books(ctx)
	if err != nil {
		return answer{}, err
	}
	now := b.slots[b.running]
	switch {
	case now.Release != r.Release:
		return answer{}, refuse("release", "Release %s runs, not %.70q.", now.Release, r.Release)
	case !waits(now) && (b.trial || now.State != helperwire.SlotGood):
		return answer{}, refuse("trial", "What slot %s holds was given up, or was never verified as a whole.", b.running)
	case b.trial && now.Epoch < b.floor.Epoch:
		return answer{}, refuse("epoch", "Release %s has security epoch %d, this device has reached %d.", now.Release, now.Epoch, b.floor.Epoch)
	}
	return answer{}, s.keep(ctx, b)
}

// keep makes the running slot the default. The epoch comes last: before, the way
// back is still open.
func (s *server) keep(ctx context.Context, b *books) error {
	if err := s.Updates.Loader.Commit(b.running); err != nil {
		return err
	}
	if waits(b.slots[b.running]) {
		if err := s.mark(b, b.running, helperwire.SlotGood); err != nil {
			return err
		}
		s.Log.Info("release is committed", "slot", b.running, "release", b.slots[b.running].Release)
	}
	return s.raise(ctx, b)
}

// settleUpdate finishes a commit that was cut short: the loader's default is a slot
// whose release still waits in our record, or the counter is behind the record. A
// new counter is lifted to the epoch that the machine was born with.
func (s *server) settleUpdate(ctx context.Context) error {
	b, err := s.books(ctx)
	switch {
	case err != nil || b.trial:
		return err
	case waits(b.slots[b.running]):
		return s.keep(ctx, b)
	case b.counted < b.floor.Epoch:
		return s.lift(ctx, b)
	}
	return nil
}

// rollback gives up a release that was not committed. It only narrows, so nobody
// has to sign it.
func (s *server) rollback(ctx context.Context, _ helperwire.Request) (answer, error) {
	b, err := s.books(ctx)
	switch {
	case err != nil:
		return answer{}, err
	case b.trial:
		if err := s.mark(b, b.running, helperwire.SlotFailed); err != nil {
			return answer{}, err
		}
		s.Log.Info("release is rolled back", "slot", b.running, "release", b.slots[b.running].Release)
		return answer{after: s.Reboot}, nil // the loader goes back by itself
	case waits(b.slots[b.spare()]):
		if err := s.Updates.Loader.Commit(b.running); err != nil {
			return answer{}, err
		}
		return answer{}, s.mark(b, b.spare(), helperwire.SlotFailed)
	}
	return answer{}, refuse("trial", "No release is on trial, or waits for it.")
}
