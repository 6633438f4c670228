package attest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func proposals(r *Result) string {
	var all []string
	for _, line := range r.Explanation() {
		if text, ok := strings.CutPrefix(line, "proposed: "); ok {
			all = append(all, text)
		}
	}
	return strings.Join(all, "\n")
}

// TestUnknownFirmwareIsProposedAsTheSetThatWouldAcceptIt, and that set does.
func TestUnknownFirmwareIsProposedAsTheSetThatWouldAcceptIt(t *testing.T) {
	l := newLab(t)
	l.log = l.withEvent(3, func(e *LogEvent) { e.Digest[0] ^= 1 })
	r := l.want(l.evidence(), Degraded, "firmware is not approved")
	amendments := r.Amendments()
	if len(amendments) != 1 || amendments[0].Rule != ruleFirmware || amendments[0].Exception != nil {
		t.Fatalf("amendments %+v", amendments)
	}
	if text := proposals(r); !strings.Contains(text, "approve the set "+amendments[0].Firmware.Hash()[:16]) {
		t.Errorf("proposed: %q", text)
	}
	l.expect.Firmware = append(l.expect.Firmware, *amendments[0].Firmware)
	if r := l.want(l.evidence(), Trusted, "firmware approved"); len(r.Amendments()) != 0 || proposals(r) != "" {
		t.Errorf("a trusted boot has amendments: %+v", r.Amendments())
	}
}

// TestProposedExceptionIsOneThatThePolicyTakes, once a person gave the reason.
func TestProposedExceptionIsOneThatThePolicyTakes(t *testing.T) {
	l := newLab(t)
	l.policy.Rules = map[string]Severity{ruleSecureBoot: Distrust}
	r := l.want(l.evidence(), Untrusted, "Secure Boot off")
	amendments := r.Amendments()
	if len(amendments) != 1 || amendments[0].Exception == nil {
		t.Fatalf("amendments %+v", amendments)
	}
	_, text, _ := strings.Cut(proposals(r), "`")
	var e Exception
	if err := json.Unmarshal([]byte(strings.TrimSuffix(text, "`")), &e); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if e.Device != l.expect.Device || e.Reason != "" || !e.Expires.After(l.expect.Now) || e.Expires.After(l.expect.Now.AddDate(0, 0, 31)) {
		t.Errorf("exception %+v", e)
	}
	e.Reason = "the lab board has no keys yet"
	l.policy.Exceptions = append(l.policy.Exceptions, e)
	l.want(l.evidence(), Trusted, "trusted: release")
	l.expect.Now = e.Expires.Add(time.Second)
	l.want(l.evidence(), Untrusted, "Secure Boot off")
}

// TestNoAmendmentAcceptsWhatAnAttackerWouldChange: an altered boot is healed by
// booting a release, not by calling it good.
func TestNoAmendmentAcceptsWhatAnAttackerWouldChange(t *testing.T) {
	for name, alter := range map[string]func(l *lab){
		"command line":     func(l *lab) { l.log = l.withCommandLine(labLine + " init=/bin/sh") },
		"boot application": func(l *lab) { l.log = l.withEvent(23, func(e *LogEvent) { e.Digest[0] ^= 1 }) },
		"UKI section":      func(l *lab) { l.log = l.withEvent(28, func(e *LogEvent) { e.Digest[0] ^= 1 }) },
		"event behind the phases": func(l *lab) {
			l.log = AppendEvent(l.log, LogEvent{PCR: 13, Type: evIPL, Digest: Digest{1}, Data: []byte("x")})
		},
	} {
		l := newLab(t)
		alter(l)
		r, err := l.judge(l.evidence())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Grade() != Untrusted || len(r.Amendments()) != 0 || proposals(r) != "" {
			t.Errorf("%s: %s, proposed %q", name, r.Grade(), proposals(r))
		}
	}
}

func TestHashOfASetIsOfWhatItMeasures(t *testing.T) {
	a := FirmwareSet{Name: "a", Measurements: []Measurement{{PCR: 0, Event: 1, Type: "x", Digest: Digest{1}}, {PCR: 2, Event: 9, Digest: Digest{2}, Text: "rom"}}}
	b := FirmwareSet{Name: "b", Measurements: []Measurement{{PCR: 0, Event: 4, Digest: Digest{1}}, {PCR: 2, Event: 5, Digest: Digest{2}}}}
	if a.Hash() != b.Hash() {
		t.Error("name, place or description change the hash")
	}
	b.Measurements[1].PCR = 0
	if a.Hash() == b.Hash() || a.Hash() == (FirmwareSet{Measurements: a.Measurements[:1]}).Hash() {
		t.Error("other measurements have the same hash")
	}
}
