package helper

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/gatewarden/gatewarden/helper/slot"
	"github.com/gatewarden/gatewarden/helper/trust"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/update/boot"
	"github.com/gatewarden/gatewarden/update/release"
)

// Counter is the TPM's counter behind the security epoch. It never falls.
type Counter interface {
	// Epoch returns the epoch that the counter proves, and what a sealing policy has
	// to know of it (JSON of tpm/counter.Record). An error says that it can't be
	// believed: it is missing, or another one stands in its place.
	Epoch(ctx context.Context) (epoch uint64, record []byte, err error)
	// Raise lifts the counter to epoch; it does nothing if it is there already.
	Raise(ctx context.Context, epoch uint64) error
}

// Updates is what a helper needs to install releases. Counter may be nil.
type Updates struct {
	Loader  boot.Loader
	Slots   string  // folder with slot-a and slot-b, in each KIND.img for each image of a release that has no device
	Product string  // file that says what this machine is, root-owned
	Counter Counter // nil: the epoch is held by our record alone
}

const (
	slotsFile = "slots.json"
	epochFile = "release-floor.json"
)

// Product is what the machine is and what it was born with.
type Product struct {
	Format   int    `json:"v"` // 1
	Product  string `json:"product"`
	Channel  string `json:"channel"`
	Hardware string `json:"hardware"` // model
	Version  string `json:"version"`  // installed at first, not by us
	Epoch    uint64 `json:"epoch"`    // of that version

	ESP     string       `json:"esp,omitempty"`     // where the EFI system partition is mounted, for systemd-boot
	Devices slot.Devices `json:"devices,omitempty"` // of the slots
}

// LoadProduct reads the product file, which must be root's.
func LoadProduct(fs *fsx.FS, path string) (*Product, error) {
	p, err := trust.Read(fs, path, maxStateFile, parseProduct)
	if err != nil {
		return nil, fmt.Errorf("read product file: %w", err)
	}
	return p, nil
}

// slotsRecord is slots.json. What is written of a slot is true before the slot is
// touched.
type slotsRecord struct {
	Format int                        `json:"v"` // 1
	Slots  map[string]helperwire.Slot `json:"slots"`
}

// epochRecord is release-floor.json. It never falls.
type epochRecord struct {
	Format  int    `json:"v"` // 1
	Epoch   uint64 `json:"epoch"`
	Release string `json:"release"` // last one committed
}

// books is what we know of the machine's software at the time of one request.
type books struct {
	product Product
	running string // slot
	trial   bool
	slots   map[string]helperwire.Slot
	floor   epochRecord
	counter string // "none", "ok", or what is wrong with it
	counted uint64 // epoch that the counter proves
	record  []byte // of the counter
}

// books reads them again for each request. What is missing or damaged of the two
// records is rebuilt from the other, and at last from the product file.
func (s *server) books(ctx context.Context) (*books, error) {
	if s.Updates == nil {
		return nil, refuse("no-update", "This machine has no slots that the helper knows.")
	}
	p, err := LoadProduct(s.FS, s.Updates.Product)
	if err != nil {
		return nil, err
	}
	b := &books{product: *p, floor: epochRecord{Format: 1, Epoch: p.Epoch, Release: p.Version}, counter: "none"}
	if b.running, b.trial, err = s.Updates.Loader.Booted(); err != nil {
		return nil, fmt.Errorf("ask boot loader: %w", err)
	}
	if err := s.readBooks(b); err != nil {
		return nil, err
	}
	s.askCounter(ctx, b)
	return b, nil
}

func (s *server) readBooks(b *books) error {
	var slots slotsRecord
	var floor epochRecord
	if err := errors.Join(s.clock.read(slotsFile, &slots), s.clock.read(epochFile, &floor)); err != nil {
		return err
	}
	if b.slots = slots.Slots; b.slots == nil {
		b.slots = make(map[string]helperwire.Slot)
	}
	if _, err := release.ParseVersion(floor.Release); err == nil {
		b.floor.Release = floor.Release
	}
	b.floor.Epoch = max(b.floor.Epoch, floor.Epoch)
	for _, slot := range b.slots {
		if slot.State == helperwire.SlotGood {
			b.floor.Epoch = max(b.floor.Epoch, slot.Epoch)
		}
	}
	if _, known := b.slots[b.running]; !known {
		b.slots[b.running] = helperwire.Slot{State: helperwire.SlotGood, Release: b.floor.Release, Epoch: b.floor.Epoch}
	}
	return nil
}

// askCounter lifts the epoch to what the counter proves. A counter that can't be
// believed is an alarm; it lowers nothing.
func (s *server) askCounter(ctx context.Context, b *books) {
	if s.Updates.Counter == nil {
		return
	}
	b.counter = "ok"
	epoch, record, err := s.Updates.Counter.Epoch(ctx)
	if err != nil {
		s.Log.Error("the TPM's epoch counter can't be believed", "error", err)
		b.counter = err.Error()
		return
	}
	b.floor.Epoch, b.counted, b.record = max(b.floor.Epoch, epoch), epoch, record
}

func parseProduct(data []byte) (*Product, error) {
	var p Product
	if err := strictjson.Unmarshal(data, &p); err != nil {
		return nil, err
	}
	if _, err := release.ParseVersion(p.Version); err != nil {
		return nil, err
	}
	if p.Format != 1 || p.Product == "" || p.Channel == "" || p.Hardware == "" || p.Epoch < 1 || p.Epoch > release.MaxEpoch {
		return nil, errors.New("v is not 1, epoch is out of range, or product, channel or hardware is missing")
	}
	if p.ESP != "" && (!filepath.IsAbs(p.ESP) || filepath.Clean(p.ESP) != p.ESP) {
		return nil, fmt.Errorf("esp is %.100q, it must be an absolute path", p.ESP)
	}
	return &p, p.Devices.Check()
}

// device is what a release is held against.
func (b *books) device() release.Device {
	return release.Device{
		Product: b.product.Product, Channel: b.product.Channel, Hardware: b.product.Hardware,
		Version: b.slots[b.running].Release, Epoch: b.floor.Epoch,
	}
}

// spare is the slot that does not run.
func (b *books) spare() string { return boot.Other(b.running) }

// mark records, durably, what a slot holds from now on.
func (s *server) mark(b *books, slot, state string) error {
	now := b.slots[slot]
	now.State = state
	return s.note(b, slot, now)
}

func (s *server) note(b *books, slot string, now helperwire.Slot) error {
	b.slots[slot] = now
	if err := s.FS.WriteJSON(s.statePath(slotsFile), slotsRecord{Format: 1, Slots: b.slots}, 0o600); err != nil {
		return fmt.Errorf("record slot %s: %w", slot, err)
	}
	return nil
}

// raise makes the running slot's release and epoch the floor: our record first,
// the TPM's counter, which can't be taken back, last.
func (s *server) raise(ctx context.Context, b *books) error {
	now := b.slots[b.running]
	b.floor.Epoch, b.floor.Release = max(b.floor.Epoch, now.Epoch), now.Release
	if err := s.FS.WriteJSON(s.statePath(epochFile), b.floor, 0o600); err != nil {
		return fmt.Errorf("record epoch: %w", err)
	}
	return s.lift(ctx, b)
}

// lift raises the counter to the floor.
func (s *server) lift(ctx context.Context, b *books) error {
	if b.counter != "ok" { // none, or the alarm was raised: a release is not lost for it
		return nil
	}
	if err := s.Updates.Counter.Raise(ctx, b.floor.Epoch); err != nil {
		return fmt.Errorf("raise epoch counter: %w", err)
	}
	return nil
}

func refuse(rule, format string, args ...any) error {
	return &policy.Refusal{Rule: rule, Text: fmt.Sprintf(format, args...)}
}
