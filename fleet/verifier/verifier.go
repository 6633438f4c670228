// Package verifier asks devices for evidence, has attest judge it, and turns the
// verdict into what it means: grade, state, gate, and an entry in the timeline.
//
// Its promise: every verdict rests on a nonce of this fleet that was used once,
// by the device it was made for; and what was decided is in the database before
// anybody is told.
package verifier

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// NonceLife is how long a challenge may be answered.
const NonceLife = 2 * time.Minute

// Config of a Verifier. All fields are required.
type Config struct {
	Registry *registry.Store
	Fleet    string
	Policy   func() *attest.Policy // the signed policy in force
	Now      func() time.Time
	Fell     func(device string) // device is not trusted any more: end its sessions
	Log      *slog.Logger
}

// Verifier is safe for concurrent use; it keeps nothing between calls.
type Verifier struct{ Config }

// New checks c.
func New(c Config) (*Verifier, error) {
	if c.Registry == nil || c.Fleet == "" || c.Policy == nil || c.Now == nil || c.Fell == nil || c.Log == nil {
		return nil, errors.New("verifier: incomplete configuration")
	}
	return &Verifier{c}, nil
}

// memory is what the registry keeps of a device for the next appraisal.
type memory struct {
	Attest   attest.Memory `json:"attest"`
	EventLog string        `json:"event_log"` // digest (hex) of the log last seen
}

// Channel is what brought the evidence.
type Channel struct {
	SPKI   string // SHA-256 (hex) of the client certificate's key; "" for a ticket
	Ticket string // SPKI hash of the key that a ticket is for, else ""
}

// Challenge makes a nonce for device.
func (v *Verifier) Challenge(ctx context.Context, device string) (wire.Challenge, error) {
	c := wire.Challenge{Nonce: make([]byte, wire.NonceSize), Expires: v.Now().Add(NonceLife).UTC()}
	if _, err := rand.Read(c.Nonce); err != nil {
		return wire.Challenge{}, fmt.Errorf("make nonce: %w", err)
	}
	if err := v.Registry.PutNonce(ctx, device, c.Nonce, c.Expires); err != nil {
		return wire.Challenge{}, fmt.Errorf("store nonce: %w", err)
	}
	m, err := v.memory(ctx, device)
	if err != nil {
		return wire.Challenge{}, err
	}
	if _, err := v.Registry.Log(ctx, m.EventLog); err == nil {
		c.EventLog = m.EventLog
	}
	return c, nil
}

// Appraise judges one piece of evidence. An *attest.Refusal means that it proves
// nothing: the device keeps the grade that it had.
func (v *Verifier) Appraise(ctx context.Context, device string, channel Channel, ev attest.Evidence) (wire.Verdict, error) {
	now := v.Now()
	if err := v.Registry.ConsumeNonce(ctx, device, ev.Nonce, now); err != nil {
		if errors.Is(err, registry.ErrNotFound) {
			return wire.Verdict{}, &attest.Refusal{Rule: "nonce", Text: "the nonce is unknown, used or expired"}
		}
		return wire.Verdict{}, fmt.Errorf("consume nonce: %w", err)
	}
	d, err := v.Registry.Device(ctx, device)
	if err != nil {
		return wire.Verdict{}, fmt.Errorf("read device: %w", err)
	}
	m, err := v.memory(ctx, device)
	if err != nil {
		return wire.Verdict{}, err
	}
	if err := v.completeLog(ctx, &ev); err != nil {
		return wire.Verdict{}, err
	}
	expect, err := v.expect(ctx, d, channel, ev.Nonce, &m.Attest, now)
	if err != nil {
		return wire.Verdict{}, err
	}
	result, err := attest.Verify(ev, expect)
	if err != nil {
		return wire.Verdict{}, err
	}
	if len(ev.EventLog.Bytes) > 0 {
		if err := v.Registry.PutLog(ctx, hex.EncodeToString(ev.EventLog.Digest[:]), ev.EventLog.Bytes, now); err != nil {
			return wire.Verdict{}, fmt.Errorf("store event log: %w", err)
		}
	}
	return v.conclude(ctx, d, channel, m, ev, result, now)
}

// expect gathers what is known of the device.
func (v *Verifier) expect(ctx context.Context, d registry.Device, channel Channel, nonce []byte, m *attest.Memory, now time.Time) (attest.Expect, error) {
	e := attest.Expect{
		Fleet: v.Fleet, Device: d.ID, Nonce: nonce, AK: d.AKPublic, Channel: channel.SPKI,
		Policy: v.Policy(), Last: m, Now: now,
	}
	certificates, err := v.Registry.Certificates(ctx, d.ID)
	if err != nil {
		return e, fmt.Errorf("read certificates: %w", err)
	}
	for _, c := range certificates {
		e.Keys = append(e.Keys, c.SPKI)
	}
	if channel.Ticket != "" {
		e.Keys = append(e.Keys, channel.Ticket)
	}
	sets, err := v.Registry.Firmware(ctx, d.Model)
	if err != nil {
		return e, fmt.Errorf("read firmware sets: %w", err)
	}
	for _, raw := range sets {
		var set attest.FirmwareSet
		if err := json.Unmarshal(raw, &set); err != nil {
			return e, fmt.Errorf("decode firmware set of %s: %w", d.Model, err)
		}
		e.Firmware = append(e.Firmware, set)
	}
	return e, nil
}

// conclude stores the verdict with all that follows from it, then tells.
func (v *Verifier) conclude(ctx context.Context, d registry.Device, channel Channel, m memory, ev attest.Evidence, r *attest.Result, now time.Time) (wire.Verdict, error) {
	gate := GateFor(r.Grade(), d.State)
	record, err := v.record(d, m, ev, r, now)
	if err != nil {
		return wire.Verdict{}, err
	}
	record.Gate = string(gate)
	if err := v.Registry.AddVerdict(ctx, record); err != nil {
		return wire.Verdict{}, fmt.Errorf("store verdict: %w", err)
	}
	if string(r.Grade()) != d.Grade {
		v.announce(ctx, d, r, now)
	}
	if gate == wire.GateQuarantine && d.State == registry.Active {
		if err := v.Registry.SetState(ctx, d.ID, registry.Quarantined, "fleet", r.Explanation()[0], now); err != nil {
			return wire.Verdict{}, fmt.Errorf("quarantine %s: %w", d.ID, err)
		}
		v.Fell(d.ID)
	}
	return wire.Verdict{
		Version: 1, Device: d.ID, Nonce: ev.Nonce, Issued: now.UTC(), Grade: string(r.Grade()), Gate: gate,
		Explanation: r.Explanation(), Renew: v.mustRenew(ctx, d.ID, channel, gate),
	}, nil
}

func (v *Verifier) record(d registry.Device, m memory, ev attest.Evidence, r *attest.Result, now time.Time) (registry.Verdict, error) {
	m.Attest.Clock = r.Clock()
	if r.Grade() == attest.Trusted {
		m.Attest.Trusted = r.Facts()
	}
	m.EventLog = hex.EncodeToString(ev.EventLog.Digest[:])
	rules, err := json.Marshal(r.Rules())
	if err != nil {
		return registry.Verdict{}, fmt.Errorf("encode rules: %w", err)
	}
	facts, err := json.Marshal(r.Facts())
	if err != nil {
		return registry.Verdict{}, fmt.Errorf("encode facts: %w", err)
	}
	kept, err := json.Marshal(m)
	if err != nil {
		return registry.Verdict{}, fmt.Errorf("encode memory: %w", err)
	}
	return registry.Verdict{
		Device: d.ID, At: now, Grade: string(r.Grade()), Explanation: r.Explanation(),
		Rules: rules, Facts: facts, Memory: kept,
	}, nil
}

// announce puts a change of grade into the timeline. The verdict is stored
// already, so a timeline that can't be written costs a log line and no more.
func (v *Verifier) announce(ctx context.Context, d registry.Device, r *attest.Result, now time.Time) {
	severity := map[attest.Grade]string{attest.Trusted: registry.Info, attest.Degraded: registry.Warning, attest.Untrusted: registry.Alarm}[r.Grade()]
	err := v.Registry.AddEvent(ctx, registry.Event{
		Device: d.ID, At: now, Kind: "verdict." + string(r.Grade()), Severity: severity, Text: r.Explanation()[0],
	})
	if err != nil {
		v.Log.Error("write timeline", "device", d.ID, "error", err)
	}
}

// mustRenew reports whether the certificate behind the channel is on the wrong
// side of quarantine.
func (v *Verifier) mustRenew(ctx context.Context, device string, channel Channel, gate wire.Gate) bool {
	certificates, err := v.Registry.Certificates(ctx, device)
	if err != nil {
		return false
	}
	for _, c := range certificates {
		if c.SPKI == channel.SPKI {
			_, quarantined, _ := wire.DeviceOf(c.Identity)
			return quarantined != (gate == wire.GateQuarantine)
		}
	}
	return false
}

func (v *Verifier) memory(ctx context.Context, device string) (memory, error) {
	var m memory
	raw, err := v.Registry.Memory(ctx, device)
	if err != nil {
		return m, fmt.Errorf("read memory of %s: %w", device, err)
	}
	if raw == nil {
		return m, nil
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("decode memory of %s: %w", device, err)
	}
	return m, nil
}

// completeLog adds the event log that the device left out because the fleet has it.
func (v *Verifier) completeLog(ctx context.Context, ev *attest.Evidence) error {
	if ev.EventLog.Offset == 0 {
		return nil
	}
	held, err := v.Registry.Log(ctx, hex.EncodeToString(ev.EventLog.Digest[:]))
	if errors.Is(err, registry.ErrNotFound) || err == nil && ev.EventLog.Offset != int64(len(held)) {
		return &attest.Refusal{Rule: "event-log", Text: "the device left out an event log that the fleet does not hold"}
	}
	if err != nil {
		return fmt.Errorf("read event log: %w", err)
	}
	ev.EventLog.Offset, ev.EventLog.Bytes = 0, held
	return nil
}
