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
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/ear"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// NonceLife is how long a challenge may be answered.
const NonceLife = 2 * time.Minute

// Config of a Verifier. All fields but Results and Brake are required.
type Config struct {
	Registry *registry.Store
	Fleet    string
	Policy   func() *attest.Policy // the signed policy in force
	Now      func() time.Time
	Fell     func(device string) // device is not trusted any more: end its sessions
	Results  *ear.Issuer         // tells others; nil: nobody is told
	Brake    int                 // percent of a hardware model that may fall within an hour before the gate stops; 0: any share
	Log      *slog.Logger
}

// logCache is how many bytes of parsed event logs are kept in memory.
const logCache = 64 << 20

// Verifier is safe for concurrent use. What it keeps between calls saves work and
// decides nothing: any number of them may serve one registry.
type Verifier struct {
	Config
	logs     *attest.LogCache
	refusals notes // by device
	brakes   notes // by model
}

// New checks c.
func New(c Config) (*Verifier, error) {
	if c.Registry == nil || c.Fleet == "" || c.Policy == nil || c.Now == nil || c.Fell == nil || c.Log == nil {
		return nil, errors.New("verifier: incomplete configuration")
	}
	logs, err := attest.NewLogCache(logCache)
	if err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	return &Verifier{Config: c, logs: logs, refusals: notes{span: refusalSpan}, brakes: notes{span: brakeSpan}}, nil
}

// memory is what the registry keeps of a device for the next appraisal.
type memory struct {
	Attest   attest.Memory `json:"attest"`
	EventLog string        `json:"event_log"`        // digest (hex) of the log last seen
	Doubts   int           `json:"doubts,omitempty"` // quotes in a row that named another health report than the newest
	Answer   *answer       `json:"answer,omitempty"` // behind the last verdict
	Policy   string        `json:"policy,omitempty"` // by which that one was judged
}

// Channel is what brought the evidence. The keys that evidence claims must belong
// to it; so evidence that somebody relays is refused.
type Channel struct {
	// Identity is that of the client certificate; every key claimed must be the key
	// of a good certificate for it. "" for a ticket.
	Identity string
	// Key is the SPKI hash (hex) that must be among those claimed: of the client
	// certificate, or the one that the ticket is for. "" if it can't be told, as
	// behind a broker.
	Key string
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
	m, err := recall(ctx, v.Registry, device)
	if err != nil {
		return wire.Challenge{}, err
	}
	if v.holds(ctx, m.EventLog) {
		c.EventLog = m.EventLog
	}
	if size, digest, ok := m.Attest.IMA.Held(v.Policy()); ok {
		c.IMALog = &wire.Held{Size: size, Digest: digest.String()}
	}
	return c, nil
}

// Unfinished reports whether the device was judged by a part of its IMA list, so that
// it should be challenged again at once.
func (v *Verifier) Unfinished(ctx context.Context, device string) (bool, error) {
	m, err := recall(ctx, v.Registry, device)
	return m.Attest.IMA.Pending(), err
}

// holds reports whether the event log with this digest need not be sent again.
func (v *Verifier) holds(ctx context.Context, digest string) bool {
	var d attest.Digest
	if n, err := hex.Decode(d[:], []byte(digest)); err != nil || n != len(d) {
		return false
	}
	if v.logs.Has(d) {
		return true
	}
	_, err := v.Registry.Log(ctx, digest)
	return err == nil
}

// Appraise judges one piece of evidence. An *attest.Refusal means that it proves
// nothing: the device keeps the grade that it had.
func (v *Verifier) Appraise(ctx context.Context, device string, channel Channel, ev attest.Evidence) (wire.Verdict, error) {
	now := v.Now()
	verdict, err := v.appraise(ctx, device, channel, ev, now)
	if err != nil {
		v.note(ctx, device, err, now)
	}
	return verdict, err
}

func (v *Verifier) appraise(ctx context.Context, device string, channel Channel, ev attest.Evidence, now time.Time) (wire.Verdict, error) {
	asked, err := v.consume(ctx, device, ev.Nonce, now)
	if err != nil {
		return wire.Verdict{}, err
	}
	d, err := v.Registry.Device(ctx, device)
	if err != nil {
		return wire.Verdict{}, fmt.Errorf("read device: %w", err)
	}
	m, err := recall(ctx, v.Registry, device)
	if err != nil {
		return wire.Verdict{}, err
	}
	sent := len(ev.EventLog.Bytes) > 0
	if err := v.completeLog(ctx, &ev); err != nil {
		return wire.Verdict{}, err
	}
	expect, err := v.expect(ctx, d, channel, ev.Nonce, &m.Attest, now)
	if err != nil {
		return wire.Verdict{}, err
	}
	verify := attest.Verify
	if d.SoftwareKeys { // by what it enrolled as, whatever the evidence says
		verify = attest.VerifySoftware
	}
	result, err := verify(ev, expect)
	if err == nil {
		err = inOrder(result, asked, d.GradeAt)
	}
	if err != nil {
		return wire.Verdict{}, err
	}
	if sent {
		if err := v.Registry.PutLog(ctx, hex.EncodeToString(ev.EventLog.Digest[:]), ev.EventLog.Bytes, now); err != nil {
			return wire.Verdict{}, fmt.Errorf("store event log: %w", err)
		}
	}
	m.Policy = expect.Policy.ID()
	return v.conclude(ctx, d, channel, m, ev, result, now)
}

// consume ends the nonce and returns when it was made.
func (v *Verifier) consume(ctx context.Context, device string, nonce []byte, now time.Time) (time.Time, error) {
	expires, err := v.Registry.ConsumeNonce(ctx, device, nonce, now)
	// One that would live for longer was made by a clock that was ahead.
	if errors.Is(err, registry.ErrNotFound) || err == nil && expires.Sub(now) > NonceLife {
		return time.Time{}, &attest.Refusal{Rule: "nonce", Text: "the nonce is unknown, used or expired"}
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("consume nonce: %w", err)
	}
	return expires.Add(-NonceLife), nil
}

// inOrder tells a chip whose clock went back from evidence that was overtaken on its
// way: asked for before the last verdict, and quoted before the quote of that. It
// proves nothing any more, and nothing against the device. Whoever holds a broker
// could put devices into quarantine by delaying their evidence otherwise.
func inOrder(r *attest.Result, asked, judged time.Time) error {
	back := slices.ContainsFunc(r.Rules(), func(rule attest.RuleResult) bool { return rule.Rule == clockRule && !rule.OK })
	if back && !asked.After(judged) {
		return &attest.Refusal{Rule: "order", Text: "a later quote of this device was judged already"}
	}
	return nil
}

// expect gathers what is known of the device.
func (v *Verifier) expect(ctx context.Context, d registry.Device, channel Channel, nonce []byte, m *attest.Memory, now time.Time) (attest.Expect, error) {
	e := attest.Expect{
		Fleet: v.Fleet, Device: d.ID, Model: d.Model, Nonce: nonce, AK: d.AKPublic, Channel: channel.Key,
		Policy: v.Policy(), Last: m, Now: now, Logs: v.logs,
	}
	certificates, err := v.Registry.Certificates(ctx, d.ID)
	if err != nil {
		return e, fmt.Errorf("read certificates: %w", err)
	}
	for _, c := range certificates {
		if c.Identity == channel.Identity && c.RevokedAt.IsZero() && now.Before(c.NotAfter) {
			e.Keys = append(e.Keys, c.SPKI)
		}
	}
	if channel.Identity == "" && channel.Key != "" {
		e.Keys = []string{channel.Key}
	}
	if e.Report, err = v.report(ctx, d.ID, now); err != nil {
		return e, err
	}
	e.Firmware, err = approved(ctx, v.Registry, d.Model)
	return e, err
}

// approved are the firmware sets that operators approved for a model.
func approved(ctx context.Context, store *registry.Store, model string) ([]attest.FirmwareSet, error) {
	raws, err := store.Firmware(ctx, model)
	if err != nil {
		return nil, fmt.Errorf("read firmware sets: %w", err)
	}
	sets := make([]attest.FirmwareSet, len(raws))
	for i, raw := range raws {
		if err := json.Unmarshal(raw, &sets[i]); err != nil {
			return nil, fmt.Errorf("decode firmware set of %s: %w", model, err)
		}
	}
	return sets, nil
}

// conclude stores the verdict with all that follows from it, then tells.
func (v *Verifier) conclude(ctx context.Context, d registry.Device, channel Channel, m memory, ev attest.Evidence, r *attest.Result, now time.Time) (wire.Verdict, error) {
	gate, lines := GateFor(r.Grade(), d.State), r.Explanation()
	if gate == wire.GateQuarantine && d.State == registry.Active && !d.SoftwareKeys { // else the owner took back that such are admitted
		held, err := v.brake(ctx, d, now)
		if err != nil {
			return wire.Verdict{}, err
		}
		if held != "" {
			gate, lines = wire.GateShort, slices.Insert(slices.Clone(lines), 1, held)
		}
	}
	v.doubt(ctx, d.ID, &m, r, now)
	record, err := v.record(d, m, ev, r, now)
	if err != nil {
		return wire.Verdict{}, err
	}
	record.Gate, record.Explanation = string(gate), lines
	if err := v.Registry.AddVerdict(ctx, record); err != nil {
		return wire.Verdict{}, fmt.Errorf("store verdict: %w", err)
	}
	if string(r.Grade()) != d.Grade {
		v.announce(ctx, d, r, now)
	}
	if gate == wire.GateQuarantine && d.State == registry.Active {
		if err := v.Registry.SetState(ctx, d.ID, registry.Quarantined, registry.Fleet, r.Explanation()[0], now); err != nil && !errors.Is(err, registry.ErrState) { // a person took it out meanwhile
			return wire.Verdict{}, fmt.Errorf("quarantine %s: %w", d.ID, err)
		}
		v.Fell(d.ID)
	}
	return wire.Verdict{
		Version: 1, Device: d.ID, Nonce: ev.Nonce, Issued: now.UTC(), Grade: string(r.Grade()), Gate: gate,
		Explanation: lines, Renew: mustRenew(channel.Identity, gate), Result: v.tell(d, m.Policy, ev.Nonce, r, now),
	}, nil
}

func (v *Verifier) record(d registry.Device, m memory, ev attest.Evidence, r *attest.Result, now time.Time) (registry.Verdict, error) {
	m.Attest = *r.Remember(&m.Attest)
	m.EventLog = hex.EncodeToString(ev.EventLog.Digest[:])
	m.Answer = nil
	if !d.SoftwareKeys { // whose evidence nobody else could judge
		m.Answer = answerOf(ev, r)
	}
	rules, err := json.Marshal(r.Rules())
	if err != nil {
		return registry.Verdict{}, fmt.Errorf("encode rules: %w", err)
	}
	facts, err := json.Marshal(r.Facts())
	if err != nil {
		return registry.Verdict{}, fmt.Errorf("encode facts: %w", err)
	}
	claims, err := json.Marshal(r.Claims())
	if err != nil {
		return registry.Verdict{}, fmt.Errorf("encode claims: %w", err)
	}
	firmware, err := measured(r)
	if err != nil {
		return registry.Verdict{}, err
	}
	kept, err := json.Marshal(m)
	if err != nil {
		return registry.Verdict{}, fmt.Errorf("encode memory: %w", err)
	}
	return registry.Verdict{
		Device: d.ID, At: now, Grade: string(r.Grade()), Release: r.Facts().Release,
		Rules: rules, Facts: facts, Claims: claims, Audit: r.Claims().Audit, Memory: kept, Firmware: firmware,
	}, nil
}

// measured is the firmware of a boot, as far as verified events tell it.
func measured(r *attest.Result) (*registry.Measured, error) {
	set := r.Facts().FirmwareSet("")
	if len(set.Measurements) == 0 {
		return nil, nil
	}
	body, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode firmware: %w", err)
	}
	m := &registry.Measured{Hash: set.Hash(), Body: body, Approved: r.Facts().FirmwareName != ""}
	for _, rule := range r.Rules() {
		if rule.Rule == firmwareRule {
			m.Text = rule.Text
		}
	}
	return m, nil
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
// side of quarantine. A ticket has none.
func mustRenew(identity string, gate wire.Gate) bool {
	_, quarantined, ok := wire.DeviceOf(identity)
	return ok && quarantined != (gate == wire.GateQuarantine)
}

// LastVerdict returns the newest verdict on d, if it rests on the attestation key
// that d has now: one that a key from before the TPM was cleared earned counts for
// nothing. Else registry.ErrNotFound.
func LastVerdict(ctx context.Context, store *registry.Store, d registry.Device) (registry.Verdict, error) {
	m, err := recall(ctx, store, d.ID)
	if err != nil {
		return registry.Verdict{}, err
	}
	if m.Attest.Clock.Key != sha256.Sum256(d.AKPublic) {
		return registry.Verdict{}, fmt.Errorf("read verdict on %s by its present attestation key: %w", d.ID, registry.ErrNotFound)
	}
	return store.LastVerdict(ctx, d.ID)
}

func recall(ctx context.Context, store *registry.Store, device string) (memory, error) {
	var m memory
	raw, err := store.Memory(ctx, device)
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
	if v.logs.Has(ev.EventLog.Digest) {
		ev.EventLog.Offset = 0
		return nil
	}
	held, err := v.Registry.Log(ctx, hex.EncodeToString(ev.EventLog.Digest[:]))
	if errors.Is(err, registry.ErrNotFound) || err == nil && ev.EventLog.Offset != int64(len(held)) {
		return &attest.Refusal{Rule: "event-log", Text: "the fleet does not hold the event log that the device left out: " +
			"ask for a new challenge, and send the log whole unless the challenge names its digest"}
	}
	if err != nil {
		return fmt.Errorf("read event log: %w", err)
	}
	ev.EventLog.Offset, ev.EventLog.Bytes = 0, held
	return nil
}
