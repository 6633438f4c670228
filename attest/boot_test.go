package attest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// recordedBoot is what the recorded machine started.
func recordedBoot(t testing.TB, f *Facts) Boot {
	t.Helper()
	if len(f.Applications) != 3 {
		t.Fatalf("%d applications", len(f.Applications))
	}
	return Boot{
		Loader: f.Applications[0].Digest, LoaderPath: f.Applications[0].Described,
		UKI: f.Applications[1].Digest, UKIPath: f.Applications[1].Described,
		Kernel: f.Applications[2].Digest, Sections: f.Sections, CommandLine: f.CommandLines[0].Text,
	}
}

func TestPredictedBootEventsAreThoseOfTheRecordedBoot(t *testing.T) {
	l := newLab(t)
	boot := recordedBoot(t, l.facts(l.log))
	firmware, err := CutAtFirstBootApplication(l.log)
	if err != nil {
		t.Fatal(err)
	}
	log, err := ParseEventLog(l.log)
	if err != nil {
		t.Fatal(err)
	}
	cut, err := ParseEventLog(firmware)
	if err != nil {
		t.Fatal(err)
	}
	predicted := BootEvents(boot)
	recorded := log.Events[len(cut.Events):]
	if len(cut.Events) != 23 || len(predicted) != len(recorded) {
		t.Fatalf("%d firmware events, %d predicted, %d recorded", len(cut.Events), len(predicted), len(recorded))
	}
	again := bytes.Clone(firmware)
	for i, p := range predicted {
		r := recorded[i]
		if p.PCR != r.PCR || p.Type != r.Type || p.Digest != r.Digest {
			t.Errorf("event %d: predicted PCR %d %s %s, recorded PCR %d %s %s", r.Index, p.PCR, p.Type, p.Digest, r.PCR, r.Type, r.Digest)
		}
		if p.Type != evBootApplication && !bytes.Equal(p.Data, r.Data) {
			t.Errorf("event %d: predicted data %q, recorded %q", r.Index, p.Data, r.Data)
		}
		again = AppendEvent(again, p)
	}
	if again, whole := l.boot(again), l.boot(l.log); !samePCRs(again, whole) {
		t.Error("predicted PCRs are not the recorded ones")
	}
	l.policy.Releases = []Release{boot.Release("gw", "1.0.0")}
	l.log = again
	l.want(l.evidence(), Trusted, "release gw 1.0.0")
}

// Under Secure Boot the stub measures its command line no second time and starts the
// kernel itself: the recorded log has one event less in PCR 12, and in PCR 4.
func TestPredictionUnderSecureBootIsTheRecordedOne(t *testing.T) {
	log, err := ParseEventLog(readFile(t, bootData, "ovmf-secureboot.eventlog"))
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := log.Replay()
	if err != nil {
		t.Fatal(err)
	}
	var b Boot
	var images []Digest
	for _, event := range log.Events {
		if event.PCR == 4 && event.Type == evBootApplication {
			images = append(images, event.Digest)
		}
	}
	if len(images) != 2 {
		t.Fatalf("%d images were measured", len(images))
	}
	b.Loader, b.UKI, b.Kernel, b.SecureBoot = images[0], images[1], Digest{1}, true
	b.CommandLine = "root=PARTLABEL=slot-a ro console=ttyS0 panic=5 quiet net.ifnames=0 systemd.show_status=0 lockdown=integrity"
	for _, pcr := range []int{4, 12} {
		if got := b.PCRs(nil)[pcr]; got != recorded[pcr] {
			t.Errorf("PCR %d: predicted %s, recorded %s", pcr, got, recorded[pcr])
		}
	}
	b.SecureBoot = false
	if b.PCRs(nil)[12] == recorded[12] || b.PCRs(nil)[4] == recorded[4] {
		t.Error("Secure Boot makes no difference to the prediction")
	}
}

func samePCRs(a, b map[int]Digest) bool {
	for _, pcr := range Selection() {
		if a[pcr] != b[pcr] {
			return false
		}
	}
	return true
}

func TestUKIWithoutLoaderIsMeasuredOnce(t *testing.T) {
	events := BootEvents(Boot{UKI: Digest{1}, Kernel: Digest{2}, Sections: []Section{{Name: ".linux", Digest: Digest{3}}}, CommandLine: "quiet"})
	apps, lines := 0, 0
	for _, e := range events {
		switch {
		case e.PCR == 4:
			apps++
		case e.PCR == 12:
			lines++
		}
	}
	if apps != 2 || lines != 1 {
		t.Errorf("%d applications, %d command lines", apps, lines)
	}
}

func TestEncodedLogParsesBack(t *testing.T) {
	l := newLab(t)
	if again := l.rewrite(func(e LogEvent) []LogEvent { return []LogEvent{e} }); !bytes.Equal(again, l.log) {
		t.Error("encoding the events of the recorded log does not give that log")
	}
}

func TestCutNeedsABootApplication(t *testing.T) {
	if _, err := CutAtFirstBootApplication(NewEventLog()); err == nil {
		t.Error("a log without boot application was cut")
	}
	if _, err := CutAtFirstBootApplication([]byte{1, 2, 3}); err == nil {
		t.Error("garbage was cut")
	}
}

func TestPolicyRefusesWhatItDoesNotDefine(t *testing.T) {
	l := newLab(t)
	good, err := json.Marshal(l.policy)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePolicy(good); err != nil {
		t.Fatal(err)
	}
	with := func(old, new string) string { return strings.Replace(string(good), old, new, 1) }
	bad := map[string]string{
		with(`{"v":1,`, `{"v":2,`):                                              "version 2",
		with(`{"v":1,`, `{"v":1,"v":1,`):                                        "twice",
		with(`{"v":1,`, `{"V":1,`):                                              "other characters",
		with(`{"v":1,`, `{"v":1,"extra":1,`):                                    "unknown field",
		with(`{"v":1,`, `{"v":1,"rules":{"pcr-repaly":"info"},`):                "no rule",
		with(`{"v":1,`, `{"v":1,"rules":{"pcr-replay":"info"},`):                "always distrusts",
		with(`{"v":1,`, `{"v":1,"rules":{"firmware":"ignore"},`):                "severity",
		with(`{"v":1,`, `{"v":1,"exceptions":[{"rule":"firmware"}],`):           "reason and an expiry",
		with(`{"v":1,`, `{"v":1,"exceptions":[{"rule":"pcr-replay"}],`):         "always distrusts",
		with(`"fleet":"meadow"`, `"fleet":""`):                                  "fleet is missing",
		with(`".linux"`, `".evil"`):                                             "not a measured UKI section",
		with(`"version":"1.0.0"`, `"version":""`):                               "product and version",
		with(`"product":"gw"`, `"product":"gw","phases":[["boot"]]`):            "boot phase",
		with(`"product":"gw"`, `"product":"gw","phases":[["ready","sysinit"]]`): "out of order",
		with(`7843e376`, `7843E376`):                                            "hex",
		string(good) + "{}":                                                     "after",
		string(good[:len(good)-1]):                                              "EOF",
		"":                                                                      "EOF",
		strings.Repeat("[", 99):                                                 "deeper",
		strings.Repeat(" ", maxPolicy) + string(good):                           "at most",
	}
	for text, want := range bad {
		if _, err := ParsePolicy([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s…: got %v, want %q", text, err, want)
		}
	}
	l.policy.Releases = append(l.policy.Releases, l.policy.Releases[0])
	data, _ := json.Marshal(l.policy)
	if _, err := ParsePolicy(data); err == nil || !strings.Contains(err.Error(), "occurs twice") {
		t.Errorf("a release twice: %v", err)
	}
}

func TestChangedWords(t *testing.T) {
	cases := [][4]string{
		{"quiet", "quiet init=/bin/sh", "quiet", "quiet init=/bin/sh"},
		{"root=a rw quiet", "root=a ro quiet", "rw", "ro"},
		{"a b c", "a c", "a b", "a"},
		{"a b", "x a b", "", "x"},
		{"a", "a", "a", "a"},
		{"", "x", "", "x"},
	}
	for _, c := range cases {
		if was, is := changedWords(c[0], c[1]); was != c[2] || is != c[3] {
			t.Errorf("%q to %q: got `%s` became `%s`", c[0], c[1], was, is)
		}
	}
}
