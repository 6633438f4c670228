package attest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// bootsOf are what the recorded machine starts in slot a, and what a UKI for slot b
// measures there that differs in its command line alone.
func bootsOf(l *lab) (a, b Boot) {
	a = recordedBoot(l.t, l.facts(l.log))
	b = a
	b.UKI = Digest{9}
	b.CommandLine = strings.Replace(a.CommandLine, "slot-a", "slot-b", 1)
	b.Sections = slices.Clone(a.Sections)
	for i := range b.Sections {
		if b.Sections[i].Name == ".cmdline" {
			b.Sections[i].Digest = hashOf([]byte(b.CommandLine))
		}
	}
	return a, b
}

// starts makes the log that of the same firmware that started b.
func (l *lab) starts(b Boot) {
	l.t.Helper()
	log, err := CutAtFirstBootApplication(l.log)
	if err != nil {
		l.t.Fatal(err)
	}
	l.log = bytes.Clone(log)
	for _, e := range BootEvents(b) {
		l.log = AppendEvent(l.log, e)
	}
}

// newSlotLab is a lab whose one release has a UKI for each slot.
func newSlotLab(t *testing.T) (l *lab, a, b Boot) {
	l = newLab(t)
	a, b = bootsOf(l)
	l.policy.Releases = []Release{a.Release("gw", "2.0.0"), b.Release("gw", "2.0.0")}
	l.policy.Releases[0].For, l.policy.Releases[1].For = "a", "b"
	return l, a, b
}

// The two UKIs of a release are no kit: sections of slot a's with the command line of
// slot b's were never released.
func TestBootIsNotPiecedTogetherFromTheUKIsOfTwoSlots(t *testing.T) {
	for mix := range 8 {
		l, a, b := newSlotLab(t)
		from := func(bit int) Boot {
			if mix>>bit&1 == 0 {
				return a
			}
			return b
		}
		boot := a
		boot.UKI, boot.Sections, boot.CommandLine = from(0).UKI, from(1).Sections, from(2).CommandLine
		l.starts(boot)
		grade, text := Untrusted, "slot"
		if mix == 0 || mix == 7 {
			grade, text = Trusted, "release gw 2.0.0,"
		}
		l.want(l.evidence(), grade, text)
	}
	l, a, b := newSlotLab(t)
	boot := a
	boot.CommandLine = b.CommandLine
	l.starts(boot)
	l.want(l.evidence(), Untrusted, "`root=PARTLABEL=slot-a` became `root=PARTLABEL=slot-b`, PCR 12, event 25; part of gw 2.0.0 for slot b, but the images are those of gw 2.0.0 for slot a")
}

func TestPolicyHasOneEntryOfAReleaseOrOneForEachSlot(t *testing.T) {
	for slots, want := range map[string]string{
		"any": "", "a b": "", "b a": "", "a": "", "a a": "occurs twice", "any any": "occurs twice", "any a": "occurs twice", "b any": "occurs twice", "c": "for is",
	} {
		l := newLab(t)
		one := l.policy.Releases[0]
		l.policy.Releases = nil
		for _, slot := range strings.Fields(slots) {
			one.For = strings.TrimPrefix(slot, "any")
			l.policy.Releases = append(l.policy.Releases, one)
		}
		data, err := json.Marshal(l.policy)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePolicy(data); want == "" && err != nil || want != "" && !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %v", slots, err)
		}
	}
	data, err := json.Marshal(newLab(t).policy)
	if err != nil || bytes.Contains(data, []byte(`"for"`)) {
		t.Errorf("a release that boots alike in both slots speaks of slots: %s", data)
	}
}
