package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// bare is a gateway without a TPM, whose first key is in software.
type bare struct {
	*lab
	first  *ecdsa.PrivateKey
	public []byte
}

func newBare(t *testing.T, severity Severity) *bare {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	b := &bare{lab: newLab(t), first: key, public: public}
	b.expect.AK, b.claims.SoftwareKeys = public, true
	if severity != "" {
		b.policy.Rules = map[string]Severity{ruleSoftwareKeys: severity}
	}
	data, err := json.Marshal(b.policy)
	if err != nil {
		t.Fatal(err)
	}
	if b.expect.Policy, err = ParsePolicy(data); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bare) signed() Evidence {
	b.t.Helper()
	claims, err := json.Marshal(b.claims)
	if err != nil {
		b.t.Fatal(err)
	}
	ev := Evidence{Version: 1, Nonce: b.expect.Nonce, Claims: claims}
	ev.Signature, err = ecdsa.SignASN1(rand.Reader, b.first, SoftwareStatement(labFleet, labDevice, b.expect.Nonce, claims))
	if err != nil {
		b.t.Fatal(err)
	}
	return ev
}

// TestSoftwareKeysAreNeverTrusted: the policy degrades or distrusts, and one that does
// not speak of them distrusts.
func TestSoftwareKeysAreNeverTrusted(t *testing.T) {
	for severity, want := range map[Severity]Grade{Degrade: Degraded, Distrust: Untrusted, "": Untrusted} {
		b := newBare(t, severity)
		result, err := VerifySoftware(b.signed(), b.expect)
		if err != nil {
			t.Fatalf("%q: %v", severity, err)
		}
		if result.Grade() != want || !strings.HasPrefix(result.Explanation()[0], string(want)+": software keys: this gateway has no TPM") {
			t.Errorf("%q: %s: %q", severity, result.Grade(), result.Explanation())
		}
		if b.expect.Policy.AdmitsSoftware() != (severity == Degrade) {
			t.Errorf("%q: admits software: %t", severity, b.expect.Policy.AdmitsSoftware())
		}
	}
}

// TestPolicyCantTrustSoftwareKeys: neither by a severity nor by an exception.
func TestPolicyCantTrustSoftwareKeys(t *testing.T) {
	for want, change := range map[string]func(*Policy){
		"it degrades or distrusts": func(p *Policy) { p.Rules = map[string]Severity{ruleSoftwareKeys: Info} },
		"has none": func(p *Policy) {
			p.Exceptions = []Exception{{Rule: ruleSoftwareKeys, Reason: "old boxes", Expires: labNow().Add(time.Hour)}}
		},
	} {
		p := newLab(t).policy
		change(&p)
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePolicy(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestTPMDeviceCantDowngradeItselfToSoftwareKeys: a device that enrolled with a TPM
// is judged by a quote or not at all, whoever signs claims without one.
func TestTPMDeviceCantDowngradeItselfToSoftwareKeys(t *testing.T) {
	b := newBare(t, Degrade)
	ak := akPublic(b.lab.key)
	for name, ev := range map[string]Evidence{
		"claims signed by a first key": b.signed(),
		"claims signed by the AK": func() Evidence {
			c := *b
			c.first = b.lab.key
			return c.signed()
		}(),
		"a quote whose claims speak of software keys": b.evidence(),
	} {
		e := b.expect
		e.AK = ak
		var refused *Refusal
		if result, err := Verify(ev, e); !errors.As(err, &refused) {
			t.Errorf("%s: %v, %v; it must be refused", name, result, err)
		}
	}
}

// TestSoftwareEvidenceIsBoundToKeyFleetDeviceNonceAndClaims.
func TestSoftwareEvidenceIsBoundToKeyFleetDeviceNonceAndClaims(t *testing.T) {
	b := newBare(t, Degrade)
	good := b.signed()
	other := newBare(t, Degrade)
	for name, try := range map[string]func(*Evidence, *Expect){
		"another key":    func(_ *Evidence, e *Expect) { e.AK = other.public },
		"another device": func(_ *Evidence, e *Expect) { e.Device = "gw-bbbbbbbbbbbbbbbb" },
		"another nonce":  func(_ *Evidence, e *Expect) { e.Nonce = append([]byte{1}, e.Nonce[1:]...) },
		"other claims": func(ev *Evidence, _ *Expect) {
			ev.Claims = append(ev.Claims[:len(ev.Claims)-1:len(ev.Claims)-1], " }"...)
		},
		"a flipped bit": func(ev *Evidence, _ *Expect) {
			ev.Signature = append([]byte(nil), ev.Signature...)
			ev.Signature[9] ^= 1
		},
		"no signature":      func(ev *Evidence, _ *Expect) { ev.Signature = nil },
		"with a quote":      func(ev *Evidence, _ *Expect) { ev.Quote = b.evidence().Quote },
		"with PCR values":   func(ev *Evidence, _ *Expect) { ev.PCRs = b.evidence().PCRs },
		"with an event log": func(ev *Evidence, _ *Expect) { ev.EventLog = wholeLog(b.log) },
		"a key of nobody":   func(_ *Evidence, e *Expect) { e.Keys = []string{strings.Repeat("00", 32)} },
		"of version 2":      func(ev *Evidence, _ *Expect) { ev.Version = 2 },
	} {
		ev, e := good, b.expect
		try(&ev, &e)
		var refused *Refusal
		if _, err := VerifySoftware(ev, e); !errors.As(err, &refused) {
			t.Errorf("%s: %v; it must be refused", name, err)
		}
	}
	b.claims.SoftwareKeys = false
	var refused *Refusal
	if _, err := VerifySoftware(b.signed(), b.expect); !errors.As(err, &refused) || refused.Rule != ruleSoftwareKeys {
		t.Errorf("claims that don't say so: %v", err)
	}
}
