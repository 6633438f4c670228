package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// now is the time at which the tests' fleet is looked at.
var now = time.Date(2026, 3, 14, 10, 42, 7, 0, time.UTC)

// deviceID is a well-formed id for a name.
func deviceID(name string) string { return wire.DeviceID("test", []byte(name)) }

// openRegistry is an empty registry in a file.
func openRegistry(tb testing.TB) *registry.Store {
	tb.Helper()
	store, err := registry.OpenSQLite(filepath.Join(tb.TempDir(), "registry.db"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := store.Close(); err != nil {
			tb.Error(err)
		}
	})
	return store
}

// seeder fills a registry and fails the test at the first error.
type seeder struct {
	testing.TB
	*registry.Store
	ctx context.Context
}

func (s seeder) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// gateway is one device of the seeded fleet.
type gateway struct {
	host, model, software string
	verified              bool
	state, grade          string // as registry has them
	seen                  time.Duration
	says                  []string // explanation
	rules                 []attest.RuleResult
	certAge, certLife     time.Duration
}

// release is what the verdict proves that it runs.
func (g gateway) release() string {
	if g.grade == "untrusted" {
		return ""
	}
	return "edge " + g.software
}

func held(rule, text string) attest.RuleResult {
	return attest.RuleResult{Rule: rule, OK: true, Effect: attest.Untrusted, Text: text}
}

func goodRules() []attest.RuleResult {
	return []attest.RuleResult{
		held("pcr-replay", "the event log replays to all 15 quoted PCRs"),
		held("boot-application", "the booted UKI is that of release 1.4.2"),
		held("uki-sections", "all 7 sections of the UKI are those of release 1.4.2"),
		held("command-line", "kernel command line `root=/dev/disk/by-partlabel/slot-a ro quiet` is that of release 1.4.2"),
		held("firmware", "firmware values are those approved as `2026-01 (F.21)`"),
		held("boot-phases", "the boot went through sysinit, ready"),
		{Rule: "secure-boot", Effect: attest.Trusted, Text: "Secure Boot is off"},
		held("clock-safe", "the chip's clock went forward"),
	}
}

func failing(rule string, effect attest.Grade, text string) []attest.RuleResult {
	rules := []attest.RuleResult{{Rule: rule, Effect: effect, Text: text}}
	for _, r := range goodRules() {
		if r.Rule != rule {
			rules = append(rules, r)
		}
	}
	return rules
}

const (
	alteredText  = "kernel command line: `quiet` became `quiet init=/bin/sh`, PCR 12, event 41; not part of any release"
	firmwareText = "firmware: PCR 0, event 3 (EV_EFI_PLATFORM_FIRMWARE_BLOB2) is in no approved set of this model; approve it if the maker updated it"
)

func gateways() []gateway {
	const box, rail = "EdgeBox 220", "RailGate R4"
	const full, short, day = 7 * 24 * time.Hour, 24 * time.Hour, 24 * time.Hour
	good := []string{"trusted: release 1.4.2, firmware `2026-01 (F.21)` approved, Secure Boot off"}
	list := []gateway{
		{host: "pump-house-3", model: box, software: "1.4.2", verified: true, state: registry.Quarantined, grade: "untrusted", seen: 4 * time.Second,
			says:  []string{"untrusted: " + alteredText, "changed since the last trusted boot: kernel command line: `root=/dev/disk/by-partlabel/slot-a ro quiet` became `root=/dev/disk/by-partlabel/slot-a ro quiet init=/bin/sh`"},
			rules: failing("command-line", attest.Untrusted, alteredText), certAge: 40 * time.Second, certLife: short},
		{host: "substation-12", model: rail, software: "1.4.2", verified: true, state: registry.Active, grade: "degraded", seen: 11 * time.Second,
			says:  []string{"degraded: " + firmwareText, "changed since the last trusted boot: firmware version: `F.21` became `F.23`"},
			rules: failing("firmware", attest.Degraded, firmwareText), certAge: 3 * time.Hour, certLife: short},
		{host: "ferry-7", model: box, software: "1.4.2", verified: true, state: registry.Pending, seen: 95 * time.Second},
		{host: "depot-north", model: "unknown board", software: "1.4.1", state: registry.Pending, seen: 26 * time.Minute},
		{host: "old-lab-2", model: box, software: "1.2.0", verified: true, state: registry.Revoked, grade: "trusted", seen: 41 * day, says: good, rules: goodRules(), certAge: 44 * day, certLife: full},
		{host: "tunnel-east", model: rail, software: "1.4.0", verified: true, state: registry.Active, grade: "trusted", seen: 3 * day, says: good, rules: goodRules(), certAge: 6*day + 12*time.Hour, certLife: full},
	}
	for i, host := range []string{"pump-house-1", "pump-house-2", "substation-11", "substation-14", "tunnel-west", "weir-1", "weir-2", "mast-hill"} {
		list = append(list, gateway{host: host, model: []string{box, rail}[i%2], software: "1.4.2", verified: true, state: registry.Active, grade: "trusted",
			seen: time.Duration(3+7*i) * time.Second, says: good, rules: goodRules(), certAge: time.Duration(5+13*i) * time.Hour, certLife: full})
	}
	return list
}

// seed fills store with a realistic fleet and returns ids by host name.
func seed(tb testing.TB, store *registry.Store) map[string]string {
	tb.Helper()
	s := seeder{tb, store, context.Background()}
	ids := map[string]string{}
	for _, g := range gateways() {
		ids[g.host] = s.enroll(g)
	}
	set, err := json.Marshal(attest.FirmwareSet{Name: "2026-01 (F.21)", Measurements: []attest.Measurement{
		{PCR: 0, Event: 1, Type: "EV_S_CRTM_VERSION", Digest: sha256.Sum256([]byte("F.21")), Text: "F.21"},
		{PCR: 0, Event: 3, Type: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", Digest: sha256.Sum256([]byte("blob"))},
		{PCR: 2, Event: 9, Type: "EV_EFI_BOOT_SERVICES_DRIVER", Digest: sha256.Sum256([]byte("driver"))},
	}})
	s.ok(err)
	s.ok(s.AddFirmware(s.ctx, "EdgeBox 220", "2026-01 (F.21)", "h", set, "mira", now.Add(-60*24*time.Hour)))
	s.story(ids)
	s.updates(ids)
	return ids
}

func (s seeder) enroll(g gateway) string {
	s.Helper()
	id := deviceID(g.host)
	_, _, err := s.Enroll(s.ctx, registry.Device{
		ID: id, Model: g.model, Hostname: g.host, Software: g.software, EKName: append([]byte{0, 0x0b}, []byte(id)...), EKPublic: []byte("ek"),
		AKPublic: append([]byte{0, 0x23, 0, 0x0b}, id...), EKVerified: g.verified, Created: now.Add(-90 * 24 * time.Hour),
	})
	s.ok(err)
	s.ok(s.Touch(s.ctx, id, g.software, now.Add(-g.seen)))
	if g.state == registry.Pending {
		s.ok(s.AddEvent(s.ctx, registry.Event{Device: id, At: now.Add(-g.seen), Kind: "enrolled", Severity: registry.Info, Text: "Enrolled; waiting for an operator's approval"}))
		return id
	}
	s.ok(s.SetState(s.ctx, id, registry.Active, "mira", "known by serial number", now.Add(-89*24*time.Hour)))
	s.certificate(id, id, "full", now.Add(-g.certAge-5*24*time.Hour), 7*24*time.Hour)
	if g.state != registry.Active {
		_, err := s.RevokeCertificates(s.ctx, id, "", "verdict is untrusted", now.Add(-g.certAge))
		s.ok(err)
	}
	profile, identity := map[bool]string{true: "full", false: "short"}[g.certLife > 24*time.Hour], id
	if g.state == registry.Quarantined {
		s.ok(s.SetState(s.ctx, id, g.state, "fleet", "verdict is untrusted", now.Add(-g.certAge)))
		profile, identity = "quarantine", wire.QuarantineID(id)
	}
	s.certificate(id, identity, profile, now.Add(-g.certAge), g.certLife)
	if g.state == registry.Revoked {
		s.ok(s.SetState(s.ctx, id, g.state, "mira", "taken out of service", now.Add(-40*24*time.Hour)))
	}
	rules, err := json.Marshal(g.rules)
	s.ok(err)
	gate := map[string]wire.Gate{"trusted": wire.GateFull, "degraded": wire.GateShort, "untrusted": wire.GateQuarantine}[g.grade]
	s.ok(s.AddVerdict(s.ctx, registry.Verdict{Device: id, At: now.Add(-g.seen - 8*time.Second), Grade: g.grade, Gate: string(gate), Release: g.release(), Explanation: g.says, Rules: rules, Facts: []byte("{}")}))
	s.health(id, g)
	return id
}

func (s seeder) certificate(id, identity, profile string, from time.Time, life time.Duration) {
	s.Helper()
	sum := sha256.Sum256([]byte(identity + profile + from.String()))
	s.ok(s.AddCertificate(s.ctx, registry.Certificate{Serial: hex.EncodeToString(sum[:16]), Device: id, Identity: identity, Profile: profile, SPKI: hex.EncodeToString(sum[:]),
		NotBefore: from, NotAfter: from.Add(life), IssuedAt: from, DER: []byte{0x30}}, ""))
}

func (s seeder) health(id string, g gateway) {
	s.Helper()
	h := wire.Health{Version: 1, Software: g.software, Slot: "a", Grade: "ok", TimeTrust: true, Findings: []wire.Finding{
		{Check: "certificate", Status: "ok", Summary: "valid for 5 d 20 h, renewal in 3 d 12 h", Since: now.Add(-9 * time.Hour)},
		{Check: "disk-space", Status: "ok", Summary: "/ has 3.1 GiB free of 7.2 GiB (43 %)", Since: now.Add(-60 * 24 * time.Hour)},
		{Check: "failed-units", Status: "ok", Summary: "no systemd unit has failed", Since: now.Add(-3 * 24 * time.Hour)},
		{Check: "secure-boot", Status: "ok", Summary: "Secure Boot is on, no test keys", Since: now.Add(-60 * 24 * time.Hour)},
		{Check: "time-sync", Status: "ok", Summary: "synchronised, 0.4 ms off", Since: now.Add(-2 * time.Hour)},
	}}
	if g.host == "pump-house-3" {
		h.Grade = "critical"
		h.Findings[1] = wire.Finding{Check: "disk-space", Status: "warning", Summary: "/var has 212 MiB free of 2.0 GiB (10 %)", Since: now.Add(-70 * time.Minute)}
		h.Findings[2] = wire.Finding{Check: "failed-units", Status: "critical", Summary: "2 units have failed: modbus-bridge.service, logrotate.service", Since: now.Add(-3 * time.Minute)}
	}
	body, err := json.Marshal(h)
	s.ok(err)
	_, _, err = s.Accept(s.ctx, registry.Message{Device: id, Stream: "s1", Seq: 1, Kind: string(wire.KindHealth), Time: now.Add(-g.seen), Received: now.Add(-g.seen), Body: body})
	s.ok(err)
}

// story is what happened in the last hours.
func (s seeder) story(ids map[string]string) {
	s.Helper()
	bad := ids["pump-house-3"]
	for _, e := range []registry.Event{
		{Device: ids["substation-12"], At: now.Add(-3 * time.Hour), Kind: "verdict.degraded", Severity: registry.Warning, Text: "Degraded: firmware of PCR 0, event 3 is in no approved set of this model"},
		{Device: ids["weir-1"], At: now.Add(-50 * time.Minute), Kind: "certificate.renewed", Severity: registry.Info, Text: "Certificate renewed for 7 d"},
		{Device: bad, At: now.Add(-12 * time.Minute), Kind: "command.done", Severity: registry.Info, Text: "Command ping by mira is done"},
		{Device: bad, At: now.Add(-2 * time.Minute), Kind: "boot", Severity: registry.Info, Text: "Booted: the chip's reset counter rose from 17 to 18"},
		{Device: bad, At: now.Add(-42 * time.Second), Kind: "verdict.untrusted", Severity: registry.Alarm, Text: "Untrusted: " + alteredText},
		{Device: bad, At: now.Add(-41 * time.Second), Kind: "certificate.revoked", Severity: registry.Warning, Text: "1 certificate revoked, session at the broker ended"},
		{Device: bad, At: now.Add(-40 * time.Second), Kind: "certificate.issued", Severity: registry.Info, Text: "Quarantine certificate issued for 1 d"},
	} {
		s.ok(s.AddEvent(s.ctx, e))
	}
	for i, c := range []struct{ verb, reason, outcome, rule, text string }{
		{"ping", "is it there?", wire.OutcomeDone, "", "pong"},
		{"reboot", "apply the kernel update", wire.OutcomeRefused, "role", "joe may not run reboot: policy version 4 grants it to mira and tomas"},
		{"link-test", "measure the new antenna", wire.OutcomeFailed, "", "sent 112 of 200 messages, then the broker was gone"},
		{"ping", "after the visit", "", "", ""},
	} {
		hash := fmt.Sprintf("%064x", sha256.Sum256([]byte(c.reason)))
		s.ok(s.AddCommand(s.ctx, registry.CommandRecord{Hash: hash, ID: fmt.Sprintf("cmd-2026-03-14-%04d", i), Device: bad, Envelope: []byte("{}"), Verb: c.verb, Reason: c.reason,
			Signers: []string{"mira"}, Created: now.Add(-time.Duration(40-9*i) * time.Minute), Expires: now.Add(time.Hour)}))
		if c.outcome != "" {
			s.ok(s.PutReceipt(s.ctx, registry.ReceiptRecord{Device: bad, Envelope: hash, Outcome: c.outcome, Rule: c.rule, Text: c.text, Received: now, Receipt: []byte(`{"payload":""}`)}))
		}
	}
}
