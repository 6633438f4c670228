package attest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func ruleOf(r *Result, name string) RuleResult {
	for _, one := range r.Rules() {
		if one.Rule == name {
			return one
		}
	}
	return RuleResult{}
}

// TestSecureBootKeysThatThePolicyDoesNotListAreNamed: a key that somebody enrolled
// makes Secure Boot his.
func TestSecureBootKeysThatThePolicyDoesNotListAreNamed(t *testing.T) {
	l := newLab(t)
	l.log = readFile(t, bootData, "ovmf-secureboot.eventlog")
	var all []KeyReference
	for _, v := range l.facts(l.log).Keys {
		if v.Name == "PK" || v.Name == "KEK" || v.Name == "db" {
			all = append(all, KeyReference{Variable: v.Name, Certificates: v.Certificates})
		}
	}
	if len(all) != 3 || len(all[2].Certificates) < 1 {
		t.Fatalf("the recorded boot has the keys %+v", all)
	}
	judge := func(keys []KeyReference) RuleResult {
		t.Helper()
		l.policy.Keys = keys
		r, err := l.judge(l.evidence())
		if err != nil {
			t.Fatal(err)
		}
		return ruleOf(r, ruleSecureBootKeys)
	}
	for name, keys := range map[string][]KeyReference{"none listed": nil, "all listed": all, "one variable listed": all[:1]} {
		if r := judge(keys); !r.OK {
			t.Errorf("%s: %s", name, r.Text)
		}
	}
	fewer := []KeyReference{all[0], {Variable: "db", Certificates: []Digest{{9}}}}
	if r := judge(fewer); r.OK || r.Effect != Untrusted || !strings.Contains(r.Text, "db holds the certificate "+all[2].Certificates[0].short()) || !strings.Contains(r.Text, "event ") {
		t.Errorf("a certificate more: %+v", r)
	}
	l.log = l.rewrite(func(e LogEvent) []LogEvent {
		if v, _, err := parseVariable(&e, e.Data); err == nil && e.PCR == 7 && v.Name == "KEK" {
			return nil
		}
		return []LogEvent{e}
	})
	if r := judge(all); r.OK || !strings.Contains(r.Text, "KEK was not measured") {
		t.Errorf("a variable less: %+v", r)
	}
}

// TestFirmwareThatTheOwnerSignedIsGoodForItsModelOnly, without any approval.
func TestFirmwareThatTheOwnerSignedIsGoodForItsModelOnly(t *testing.T) {
	l := newLab(t)
	set := l.expect.Firmware[0]
	l.expect.Firmware, l.expect.Model = nil, "box"
	l.policy.Firmware = []ModelFirmware{{Model: "rail", Name: "R.1", Measurements: set.Measurements}}
	l.want(l.evidence(), Degraded, "firmware: none is approved yet")
	l.policy.Firmware[0].Model = "box"
	if r := l.want(l.evidence(), Trusted, "firmware approved"); r.Facts().FirmwareName != "R.1" {
		t.Errorf("firmware %q", r.Facts().FirmwareName)
	}
}

func TestPolicyWithSetsThatMeanNothingIsRefused(t *testing.T) {
	good := Digest{1}
	for want, alter := range map[string]func(p *Policy){
		"needs a model": func(p *Policy) {
			p.Firmware = []ModelFirmware{{Name: "n", Measurements: []Measurement{{Digest: good}}}}
		},
		"of PCR 0 or 2": func(p *Policy) {
			p.Firmware = []ModelFirmware{{Model: "m", Name: "n", Measurements: []Measurement{{PCR: 4, Digest: good}}}}
		},
		"has a digest": func(p *Policy) {
			p.Firmware = []ModelFirmware{{Model: "m", Name: "n", Measurements: []Measurement{{PCR: 0}}}}
		},
		"not PK, KEK or db":  func(p *Policy) { p.Keys = []KeyReference{{Variable: "dbx", Certificates: []Digest{good}}} },
		"db occurs twice":    func(p *Policy) { p.Keys = []KeyReference{{"db", []Digest{good}}, {"db", []Digest{good}}} },
		"needs certificates": func(p *Policy) { p.Keys = []KeyReference{{Variable: "db"}} },
	} {
		p := newLab(t).policy
		alter(&p)
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePolicy(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestPolicyInWordsHasEveryRuleAndWhatIsExcepted.
func TestPolicyInWordsHasEveryRuleAndWhatIsExcepted(t *testing.T) {
	p := newLab(t).policy
	p.Rules = map[string]Severity{ruleSecureBoot: Degrade}
	p.Exceptions = []Exception{{Rule: ruleFirmware, Reason: "spare parts", Expires: labNow().Add(time.Hour)}, {Rule: ruleSecureBoot, Device: labDevice, Reason: "old", Expires: labNow()}}
	text := strings.Join(p.Describe(labNow()), "\n")
	for _, name := range RuleNames() {
		if !strings.Contains(text, "\nrule "+name+": ") {
			t.Errorf("nothing about the rule %s", name)
		}
	}
	for _, want := range []string{
		"good: release gw 1.0.0", "rule secure-boot: Secure Boot is on; else it degrades (by default: info)", "excepted: firmware may fail on every gateway until 2026-11-23T13:00:00Z: spare parts",
		"excepted: secure-boot may fail on " + labDevice + " no more, since 2026-11-23T12:00:00Z: old",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

// TestRecordedEvidenceIsJudgedByAnotherPolicyAsItWouldBe: the same words, or those of
// the other policy.
func TestRecordedEvidenceIsJudgedByAnotherPolicyAsItWouldBe(t *testing.T) {
	l := newLab(t)
	l.log = l.withCommandLine(labLine + " init=/bin/sh")
	ev := l.evidence()
	ev.Nonce = l.expect.Nonce
	live, err := l.judge(ev)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(Recorded{Version: 1, Fleet: labFleet, Device: labDevice, At: labNow(), AK: l.expect.AK, Keys: l.expect.Keys, Firmware: l.expect.Firmware, Evidence: ev})
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRecorded(data)
	if err != nil {
		t.Fatal(err)
	}
	parse := func() *Policy {
		t.Helper()
		data, err := json.Marshal(l.policy)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePolicy(data)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	again, err := r.Judge(parse(), labNow())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(again.Explanation(), "\n") != strings.Join(live.Explanation(), "\n") {
		t.Errorf("judged again: %v", again.Explanation())
	}
	l.policy.Exceptions = []Exception{{Rule: ruleCommandLine, Reason: "debugging on the bench", Expires: labNow().Add(time.Hour)}}
	if r, err := r.Judge(parse(), labNow()); err != nil || r.Grade() != Trusted {
		t.Errorf("with an exception: %v", err)
	}
	r.Evidence.Quote[20] ^= 1
	if _, err := r.Judge(parse(), labNow()); err == nil {
		t.Error("an altered record was judged")
	}
}
