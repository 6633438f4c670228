package verifier_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/evidence"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/testdata/boot"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

const (
	fleetID  = "lab"
	deviceID = "gw-aaaaaaaaaaaaaaaa"
	otherID  = "gw-bbbbbbbbbbbbbbbb"
)

// court is a verifier with a device that a real TPM stands behind.
type court struct {
	testing.TB
	store    *registry.Store
	verifier *verifier.Verifier
	machine  *tpmtest.Machine
	power    *tpmtest.Power
	tpm      *tpm.TPM
	ak       *tpm.Key
	pem      []byte
	log      string
	ahead    atomic.Int64
	fell     []string
	posture  string // what the device claims
	files    string // list of what may run; "": the policy has none
	rules    map[string]attest.Severity
}

func (c *court) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *court) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func measured(line string) attest.Boot {
	section := func(name string) attest.Section {
		return attest.Section{Name: name, Digest: sha256.Sum256([]byte(name))}
	}
	return attest.Boot{
		Loader: sha256.Sum256([]byte("loader")), LoaderPath: `\EFI\BOOT\BOOTX64.EFI`,
		UKI: sha256.Sum256([]byte("uki")), UKIPath: `\EFI\Linux\gw.efi`, Kernel: sha256.Sum256([]byte("kernel")),
		Sections: []attest.Section{section(".linux"), section(".osrel"), section(".cmdline"), section(".uname")}, CommandLine: line,
	}
}

const goodLine = "root=a ro"

func newCourt(t testing.TB) *court {
	t.Helper()
	c := &court{TB: t, log: filepath.Join(t.TempDir(), "eventlog")}
	var err error
	c.store, err = registry.OpenSQLite(filepath.Join(t.TempDir(), "registry.db"))
	c.must(err)
	t.Cleanup(func() { c.store.Close() })
	c.verifier = c.newVerifier()
	c.machine, c.power = tpmtest.Start(t)
	c.connect()
	c.ak, err = c.tpm.CreateKey(t.Context(), tpm.AK)
	c.must(err)
	c.pem = c.ak.PEM()
	c.boot(goodLine)
	for _, id := range []string{deviceID, otherID} {
		_, _, err = c.store.Enroll(t.Context(), registry.Device{ID: id, Model: "lab-box", EKName: []byte(id), AKPublic: c.ak.TPMPublic(), Created: c.now()})
		c.must(err)
		c.must(c.store.SetState(t.Context(), id, registry.Active, "olga", "test", c.now()))
	}
	return c
}

func (c *court) newVerifier() *verifier.Verifier {
	c.Helper()
	authored := attest.Policy{Version: 1, Issued: time.Now().UTC(), Fleet: fleetID, Releases: []attest.Release{measured(goodLine).Release("lab", "1")}, Rules: c.rules}
	if c.files != "" {
		authored.IMA = &attest.IMAPolicy{Lists: []attest.Digest{sha256.Sum256([]byte(c.files))}}
	}
	raw, err := json.Marshal(authored)
	c.must(err)
	policy, err := attest.ParsePolicy(raw)
	c.must(err)
	c.must(policy.ReadLists(func(attest.Digest) ([]byte, error) { return []byte(c.files), nil }, nil))
	v, err := verifier.New(verifier.Config{
		Registry: c.store, Fleet: fleetID, Policy: func() *attest.Policy { return policy }, Now: c.now,
		Fell: func(id string) { c.fell = append(c.fell, id) }, Log: slog.New(slog.DiscardHandler),
	})
	c.must(err)
	return v
}

func (c *court) connect() {
	c.Helper()
	var err error
	c.tpm, err = tpm.Open(c.Context(), "unix:"+c.power.Socket)
	c.must(err)
	chip := c.tpm
	c.Cleanup(func() { chip.Close() })
}

// boot measures what a boot with this command line does.
func (c *court) boot(line string) {
	c.Helper()
	raw, err := attest.CutAtFirstBootApplication(boot.EventLog)
	c.must(err)
	for _, event := range attest.BootEvents(measured(line)) {
		raw = attest.AppendEvent(raw, event)
	}
	log, err := attest.ParseEventLog(raw)
	c.must(err)
	for _, event := range log.Events {
		if event.Extends() {
			c.must(c.power.Extend(c.Context(), event.PCR, event.Digest))
		}
	}
	for _, phase := range []string{"sysinit", "ready"} {
		c.must(c.power.Extend(c.Context(), 11, sha256.Sum256([]byte(phase))))
	}
	c.must(os.WriteFile(c.log, raw, 0o600))
}

// reboot switches the machine off and boots it with this command line.
func (c *court) reboot(line string) {
	c.Helper()
	c.must(c.tpm.Close())
	c.must(c.power.Off())
	c.power = tpmtest.PowerOn(c, c.machine)
	c.connect()
	var err error
	c.ak, err = c.tpm.LoadKey(c.Context(), c.pem)
	c.must(err)
	c.boot(line)
}

func key(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// certify journals a certificate for identity whose key is key(identity).
func (c *court) certify(identity string) verifier.Channel {
	c.Helper()
	device, _, _ := wire.DeviceOf(identity)
	c.must(c.store.AddCertificate(c.Context(), registry.Certificate{
		Serial: key(identity)[:32], Device: device, Identity: identity, SPKI: key(identity), NotAfter: c.now().Add(time.Hour), IssuedAt: c.now(), DER: []byte("x"),
	}, ""))
	return verifier.Channel{Identity: identity}
}

func (c *court) evidence(challenge wire.Challenge, keys ...string) attest.Evidence {
	c.Helper()
	return c.evidenceOf(deviceID, challenge, keys...)
}

func (c *court) evidenceOf(device string, challenge wire.Challenge, keys ...string) attest.Evidence {
	c.Helper()
	collector, err := evidence.New(evidence.Config{
		TPM: c.tpm, AK: c.ak, Fleet: fleetID, Device: device, Claims: func() attest.Claims { return attest.Claims{Version: 1, Software: "1", Posture: c.posture} },
		Logs: func(context.Context) (*os.File, *os.File, error) { f, err := os.Open(c.log); return f, nil, err },
	})
	c.must(err)
	ev, err := collector.Collect(c.Context(), challenge, keys...)
	c.must(err)
	return ev
}

func (c *court) challenge() wire.Challenge {
	c.Helper()
	challenge, err := c.verifier.Challenge(c.Context(), deviceID)
	c.must(err)
	return challenge
}

// judge appraises fresh evidence that came over channel and claims its key.
func (c *court) judge(channel verifier.Channel) wire.Verdict {
	c.Helper()
	v, err := c.verifier.Appraise(c.Context(), deviceID, channel, c.evidence(c.challenge(), key(channel.Identity)))
	c.must(err)
	return v
}

// refused appraises ev and checks which rule refuses it.
func (c *court) refused(channel verifier.Channel, ev attest.Evidence, rule string) *attest.Refusal {
	c.Helper()
	_, err := c.verifier.Appraise(c.Context(), deviceID, channel, ev)
	var refusal *attest.Refusal
	if !errors.As(err, &refusal) || refusal.Rule != rule {
		c.Fatalf("error %v, want a refusal by rule %q", err, rule)
	}
	return refusal
}

func (c *court) device() registry.Device {
	c.Helper()
	d, err := c.store.Device(c.Context(), deviceID)
	c.must(err)
	return d
}

func (c *court) freeze() {
	c.Helper()
	v, err := c.store.LastVerdict(c.Context(), deviceID)
	c.must(err)
	var facts attest.Facts
	c.must(json.Unmarshal(v.Facts, &facts))
	shown := facts.FirmwareSet("as shown")
	set, err := json.Marshal(shown)
	c.must(err)
	c.must(c.store.AddFirmware(c.Context(), "lab-box", "as shown", shown.Hash(), set, "olga", c.now()))
}

func TestVerdictMovesTheDeviceAndTellsWhoMustKnow(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	if v := c.judge(full); v.Grade != "degraded" || v.Gate != wire.GateShort || v.Renew {
		t.Fatalf("unknown firmware: %+v", v)
	}
	c.freeze()
	if v := c.judge(full); v.Grade != "trusted" || v.Gate != wire.GateFull || v.Renew || c.device().State != registry.Active {
		t.Fatalf("approved firmware: %+v", v)
	}
	if len(c.fell) > 0 {
		t.Fatalf("fell: %v", c.fell)
	}
	c.reboot(goodLine + " init=/bin/sh")
	v := c.judge(full)
	if v.Grade != "untrusted" || v.Gate != wire.GateQuarantine || !v.Renew {
		t.Fatalf("altered command line: %+v", v)
	}
	if !strings.Contains(strings.Join(v.Explanation, "\n"), "init=/bin/sh") {
		t.Errorf("the altered words are not named: %q", v.Explanation)
	}
	if d := c.device(); d.State != registry.Quarantined || d.Grade != "untrusted" || len(c.fell) != 1 || c.fell[0] != deviceID {
		t.Errorf("state %s, grade %s, fell %v", d.State, d.Grade, c.fell)
	}
	quarantine := c.certify(wire.QuarantineID(deviceID))
	if v = c.judge(quarantine); v.Renew || v.Gate != wire.GateQuarantine || len(c.fell) != 1 {
		t.Errorf("judged again in quarantine: %+v, fell %v", v, c.fell)
	}
	c.reboot(goodLine)
	if v = c.judge(quarantine); v.Grade != "trusted" || v.Gate != wire.GateFull || !v.Renew {
		t.Errorf("healed: %+v", v)
	}
	// The state follows the certificate, which only the gate issues.
	if d := c.device(); d.State != registry.Quarantined || d.Grade != "trusted" {
		t.Errorf("state %s, grade %s", d.State, d.Grade)
	}
	events, err := c.store.Events(t.Context(), deviceID, 0, 20)
	c.must(err)
	var kinds []string
	for _, e := range events {
		kinds = append([]string{e.Kind + ":" + e.Severity}, kinds...)
	}
	want := "firmware.new:warning verdict.degraded:warning verdict.trusted:info verdict.untrusted:alarm verdict.trusted:info"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("timeline %s, want %s", got, want)
	}
}

func TestGateByGradeAndState(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		grade attest.Grade
		state string
		want  wire.Gate
	}{
		{attest.Trusted, registry.Active, wire.GateFull},
		{attest.Degraded, registry.Active, wire.GateShort},
		{attest.Untrusted, registry.Active, wire.GateQuarantine},
		{"", registry.Active, wire.GateQuarantine},
		{"a word of tomorrow", registry.Active, wire.GateQuarantine},
		{attest.Trusted, registry.Quarantined, wire.GateFull},
		{attest.Trusted, registry.Revoked, wire.GateRevoked},
		{attest.Untrusted, registry.Revoked, wire.GateRevoked},
	} {
		if got := verifier.GateFor(c.grade, c.state); got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.grade, c.state, got, c.want)
		}
	}
}

func TestEventLogTravelsOnceThenByDigest(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	first := c.challenge()
	ev := c.evidence(first, key(deviceID))
	if first.EventLog != "" || len(ev.EventLog.Bytes) == 0 {
		t.Fatalf("the first challenge names %q, the answer has %d bytes of log", first.EventLog, len(ev.EventLog.Bytes))
	}
	_, err := c.verifier.Appraise(t.Context(), deviceID, full, ev)
	c.must(err)
	whole := ev.EventLog.Bytes
	for name, v := range map[string]*verifier.Verifier{"remembered": c.verifier, "after a restart": c.newVerifier(), "by another replica": c.newVerifier()} {
		c.verifier = v
		next := c.challenge()
		ev = c.evidence(next, key(deviceID))
		if next.EventLog != hex.EncodeToString(ev.EventLog.Digest[:]) || len(ev.EventLog.Bytes) != 0 {
			t.Fatalf("%s: the challenge names %q, the answer has %d bytes of log", name, next.EventLog, len(ev.EventLog.Bytes))
		}
		v, err := c.verifier.Appraise(t.Context(), deviceID, full, ev)
		c.must(err)
		if v.Grade != "degraded" {
			t.Errorf("%s: %+v", name, v)
		}
	}
	unknown := c.evidence(c.challenge(), key(deviceID))
	unknown.EventLog = attest.Log{Offset: 100, Digest: sha256.Sum256([]byte("never seen"))}
	if r := c.refused(full, unknown, "event-log"); !strings.Contains(r.Text, "send the log whole") {
		t.Errorf("the refusal gives no instruction: %s", r.Text)
	}
	// A wrong length must not pass for a log that is held.
	c.verifier = c.newVerifier()
	short := c.evidence(c.challenge(), key(deviceID))
	short.EventLog.Offset = int64(len(whole)) - 1
	c.refused(full, short, "event-log")
}

func TestRefusedEvidenceChangesNoGradeAndIsNoted(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	c.judge(full)
	before := c.device()
	ev := c.evidence(c.challenge(), key(deviceID))
	ev.Signature[len(ev.Signature)-1] ^= 1
	c.refused(full, ev, "signature")
	c.refused(full, ev, "nonce") // used up by the attempt
	if after := c.device(); after.Grade != before.Grade || !after.GradeAt.Equal(before.GradeAt) || after.State != before.State || len(c.fell) > 0 {
		t.Errorf("before %s %s, after %s %s, fell %v", before.Grade, before.State, after.Grade, after.State, c.fell)
	}
	noted := func() (n int) {
		events, err := c.store.Events(t.Context(), deviceID, 0, 50)
		c.must(err)
		for _, e := range events {
			if e.Kind == "evidence.refused" {
				n++
			}
		}
		return n
	}
	if noted() != 1 {
		t.Errorf("%d lines in the timeline for two refusals in a minute", noted())
	}
	c.ahead.Store(int64(2 * time.Minute))
	c.refused(full, ev, "nonce")
	if noted() != 2 {
		t.Errorf("%d lines in the timeline after a later refusal", noted())
	}
}

func TestEvidenceClaimsAGoodKeyOfItsChannel(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	quarantine := c.certify(wire.QuarantineID(deviceID))
	ticket := verifier.Channel{Key: key("ticket")}
	claims := func(names ...string) attest.Evidence {
		var keys []string
		for _, n := range names {
			keys = append(keys, key(n))
		}
		return c.evidence(c.challenge(), keys...)
	}
	c.refused(full, claims(wire.QuarantineID(deviceID)), "keys")
	c.refused(quarantine, claims(deviceID), "keys")
	c.refused(quarantine, claims(wire.QuarantineID(deviceID), deviceID), "keys")
	c.refused(ticket, claims(deviceID), "keys")
	c.refused(full, claims("ticket"), "keys")
	c.refused(full, claims(), "claims")
	c.refused(verifier.Channel{}, claims(deviceID), "keys")
	c.refused(verifier.Channel{Identity: deviceID, Key: key("other")}, claims(deviceID), "channel")
	if v, err := c.verifier.Appraise(t.Context(), deviceID, ticket, claims("ticket")); err != nil || v.Renew {
		t.Errorf("ticket: %+v, %v", v, err)
	}
	if _, err := c.verifier.Appraise(t.Context(), deviceID, verifier.Channel{Identity: deviceID, Key: key(deviceID)}, claims(deviceID)); err != nil {
		t.Errorf("certificate: %v", err)
	}
	c.ahead.Store(int64(2 * time.Hour))
	c.refused(full, claims(deviceID), "keys") // expired
	c.ahead.Store(0)
	_, err := c.store.RevokeCertificates(t.Context(), deviceID, "", "test", c.now())
	c.must(err)
	c.refused(full, claims(deviceID), "keys") // revoked
}

func TestNonceIsForOneDeviceOnceAndForTwoMinutes(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	foreign, err := c.verifier.Challenge(t.Context(), otherID)
	c.must(err)
	c.refused(full, c.evidence(foreign, key(deviceID)), "nonce")
	ev := c.evidence(c.challenge(), key(deviceID))
	_, err = c.verifier.Appraise(t.Context(), deviceID, full, ev)
	c.must(err)
	c.refused(full, ev, "nonce")
	made := wire.Challenge{Nonce: make([]byte, wire.NonceSize)}
	c.refused(full, c.evidence(made, key(deviceID)), "nonce")
	late := c.challenge()
	ev = c.evidence(late, key(deviceID))
	c.ahead.Store(int64(verifier.NonceLife + time.Second))
	c.refused(full, ev, "nonce")
	c.ahead.Store(0)
	// Evidence says which nonce it answers; the quote has to agree.
	one, two := c.challenge(), c.challenge()
	ev = c.evidence(one, key(deviceID))
	ev.Nonce = two.Nonce
	c.refused(full, ev, "nonce")
}

func TestVerdictOfAnEarlierAttestationKeyDoesNotCount(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	if _, err := verifier.LastVerdict(t.Context(), c.store, c.device()); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("before the first: %v", err)
	}
	c.judge(c.certify(deviceID))
	if v, err := verifier.LastVerdict(t.Context(), c.store, c.device()); err != nil || v.Grade != "degraded" {
		t.Errorf("%+v, %v", v, err)
	}
	c.must(c.store.UpdateAK(t.Context(), deviceID, []byte("another"), ""))
	if _, err := verifier.LastVerdict(t.Context(), c.store, c.device()); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("after the key changed: %v", err)
	}
}
