package attest

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// grubLab is a gateway that GRUB's command linux started, as recorded of a virtual
// machine with Fedora CoreOS.
func grubLab(t *testing.T) *lab {
	t.Helper()
	return learned(t, "eventlogs/google-go-attestation/attest/testdata/coreos_36_shielded_vm_no_secure_boot_eventlog")
}

// learned is a gateway with a log of the corpus, whose boot its policy was made of.
func learned(t *testing.T, path string) *lab {
	t.Helper()
	l := newLab(t)
	l.log, l.phases = corpusLog(t, corpus(t), path), nil
	log, err := ParseEventLog(l.log)
	if err != nil {
		t.Fatal(err)
	}
	r, err := log.Release("gw", "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	l.policy.Releases = []Release{r}
	l.expect.Firmware = []FirmwareSet{l.facts(l.log).FirmwareSet("of the log")}
	return l
}

// altered is the log with the first event that contains text changed: its text, and the
// digest as GRUB would have made it of that.
func (l *lab) altered(text, was, is string) []byte {
	found := false
	return l.rewrite(func(e LogEvent) []LogEvent {
		if covered, _, ok := grubText(&e); !found && ok && e.PCR == 8 && strings.Contains(covered, text) {
			found = true
			e.Data = bytes.Replace(bytes.Clone(e.Data), []byte(was), []byte(is), 1)
			e.Digest = hashOf([]byte(strings.Replace(covered, was, is, 1)))
		}
		return []LogEvent{e}
	})
}

// Whatever distribution's GRUB it was, what it measured becomes reference values
// that call that boot good. One file or command of another boot doesn't.
func TestGRUBBootsOfTheCorpusAreGoodByTheirOwnReferenceValuesAlone(t *testing.T) {
	booted := 0
	for path, log := range cryptoAgileLogs(t) {
		if r, err := log.Release("gw", "1.0.0"); err != nil || r.GRUB == nil {
			continue
		}
		booted++
		l := learned(t, path)
		if r := l.want(l.evidence(), l.gradeOfFirmware(), ""); r.Facts().Release != "gw 1.0.0" {
			t.Errorf("%s: no boot of the release:\n%s", path, strings.Join(r.Explanation(), "\n"))
		}
		for _, pcr := range []int{8, 9} {
			l.wantEachNoticed(path, pcr)
		}
	}
	if booted < 5 {
		t.Errorf("only %d boots by GRUB's command linux", booted)
	}
}

// gradeOfFirmware is Degraded where the firmware reports something, or is half known.
func (l *lab) gradeOfFirmware() Grade {
	if f := l.facts(l.log); len(f.Signals)+len(f.ErrorSeparators) > 0 {
		return Degraded
	}
	return Trusted
}

// wantEachNoticed has the machine measure something else in the place of each event.
func (l *lab) wantEachNoticed(name string, pcr int) {
	l.t.Helper()
	good := l.log
	defer func() { l.log = good }()
	log, err := ParseEventLog(good)
	if err != nil {
		l.t.Fatal(err)
	}
	expect := l.expect
	expect.Policy = l.parsed()
	for _, e := range log.eventsOf(pcr) {
		l.log = good
		l.log = l.withEvent(e.Index, func(e *LogEvent) { e.Digest = hashOf([]byte("evil")) })
		if r, err := Verify(l.evidence(), expect); err != nil || r.Grade() != Untrusted {
			l.t.Errorf("%s: another event %d: %v", name, e.Index, err)
		}
	}
}

func TestCommandAndFileOfGRUBThatNoReleaseListsAreNamed(t *testing.T) {
	l := grubLab(t)
	l.want(l.evidence(), Trusted, "trusted: release gw 1.0.0")
	good := l.log
	for name, c := range map[string]struct {
		log  []byte
		text string
	}{
		"a word": {l.altered("set timeout=1", "timeout=1", "timeout=1 lab"), "GRUB command set: `timeout=1` became `timeout=1 lab`, PCR 8, event 54; not part of gw 1.0.0"},
		"a verb": {l.altered("set timeout=1", "set timeout=1", "rmmod tpm"), "GRUB command `rmmod tpm`, PCR 8, event 54; not part of gw 1.0.0"},
		"a file": {
			l.withEvent(73, func(e *LogEvent) { e.Digest = hashOf([]byte("initrd")) }),
			"file 09e6c018… (described as (hd0,gpt3)/ostree/fedora-coreos-28f8e018c4312083b210ce13c9fdab9dcb7883a0200802dca4eeddc1030eb715/initramfs-5.18.13-200.fc36.x86_64.img), PCR 9, event 73, where 9ffcf998… is listed; not part of gw 1.0.0",
		},
	} {
		l.log = c.log
		r, err := l.judge(l.evidence())
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(r.Rules(), func(r RuleResult) bool { return r.Rule == ruleGRUB }); r.Grade() != Untrusted || r.Rules()[i].Text != c.text {
			t.Errorf("%s: %s, %s", name, r.Grade(), r.Rules()[i].Text)
		}
		l.log = good
	}
}

// Nothing that no digest covers decides: neither the name of a file, nor whether GRUB
// calls a text a command or the kernel's.
func TestRenamedGRUBEventNeverPasses(t *testing.T) {
	line := grubLab(t).policy.Releases[0].CommandLines[0]
	evil := line + " init=/bin/sh"
	for _, prefix := range []string{"grub_cmd: ", "kernel_cmdline: ", "module_cmdline: ", "anything "} {
		l := grubLab(t)
		l.log = l.rewrite(func(e LogEvent) []LogEvent {
			if text, kernel, _ := grubText(&e); e.PCR == 8 && kernel && text == line {
				e.Digest, e.Data = hashOf([]byte(evil)), []byte(prefix+evil+"\x00")
			}
			return []LogEvent{e}
		})
		l.want(l.evidence(), Untrusted, "")
	}
}

// A state of GRUB's that takes another way through its menu is no harm, another
// state of its environment is.
func TestGRUBMayLeaveOutWhatIsListed(t *testing.T) {
	l := grubLab(t)
	l.log = l.rewrite(func(e LogEvent) []LogEvent {
		if text, _, _ := grubText(&e); text == "set timeout=1" || ipl(&e) == "/ignition.firstboot" {
			return nil
		}
		return []LogEvent{e}
	})
	l.want(l.evidence(), Trusted, "")
	l.log = l.rewrite(func(e LogEvent) []LogEvent {
		if e.PCR == 9 {
			return nil
		}
		return []LogEvent{e}
	})
	l.want(l.evidence(), Untrusted, "GRUB: no file was measured into PCR 9")
}

// GRUB since 2.12 starts the kernel's EFI stub, which measures the line once more.
func TestLineThatGRUBHandsToTheStubIsThatOfTheRelease(t *testing.T) {
	l := grubLab(t)
	line, good := l.policy.Releases[0].CommandLines[0], l.log
	for said, grade := range map[string]Grade{"BOOT_IMAGE=" + line: Trusted, "BOOT_IMAGE=" + line + " init=/bin/sh": Untrusted} {
		l.log = AppendEvent(slices.Clone(good), LogEvent{
			PCR: 9, Type: evEventTag, Digest: CommandLineDigest(said), Data: eventTag(loadOptionsTag, "LOADED_IMAGE::LoadOptions"),
		})
		l.want(l.evidence(), grade, "")
	}
}

func TestReferenceValuesOfALogAreThoseOfItsBootOrNone(t *testing.T) {
	l := newLab(t)
	log, err := ParseEventLog(l.log)
	if err != nil {
		t.Fatal(err)
	}
	r, err := log.Release("gw", "1.0.0")
	if err != nil || len(r.UKISections) == 0 || r.GRUB != nil {
		t.Errorf("a UKI: %+v, %v", r, err)
	}
	for name, c := range map[string]struct {
		log  []byte
		want string
	}{
		"no boot loader": {l.rewrite(func(e LogEvent) []LogEvent {
			if e.PCR > 7 {
				return nil
			}
			return []LogEvent{e}
		}), "the boot loader measured too little"},
		"an extension": {AppendEvent(slices.Clone(l.log), measured(13, evIPL, []byte("sysext"))), "PCR 13, sysext) is nothing that a release can list"},
		"no text":      {AppendEvent(slices.Clone(l.log), LogEvent{PCR: 12, Type: evIPL, Digest: Digest{1}, Data: []byte("x")}), "holds no command line as text"},
		"legacy":       {readFile(t, corpus(t), "eventlogs/tpm2-software-tpm2-tools/test/integration/fixtures/event-uefi-sha1-log.bin"), ErrNoBank.Error()},
	} {
		log, err := ParseEventLog(c.log)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Release("gw", "1.0.0"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGRUBOfAPolicyIsReadStrictly(t *testing.T) {
	release := func(grub string) error {
		_, err := ParsePolicy([]byte(`{"v":1,"issued":"2026-11-23T12:00:00Z","fleet":"meadow","releases":[{"product":"gw","version":"1","boot_applications":["` +
			strings.Repeat("1", 64) + `"],"command_lines":["/vmlinuz"]` + grub + `}]}`))
		return err
	}
	file := `{"name":"/vmlinuz","digest":"` + strings.Repeat("2", 64) + `"}`
	if err := release(`,"grub":{"commands":["boot"],"files":[` + file + `]}`); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		``, `,"grub":{}`, `,"grub":{"commands":["boot"]}`, `,"grub":{"files":[` + file + `]}`, `,"grub":{"commands":["boot"],"files":[` + file + `],"modules":[]}`,
		`,"grub":{"commands":["boot"],"files":[{"name":"/vmlinuz"}]}`, `,"grub":{"commands":["boot"],"files":[{"digest":"` + strings.Repeat("2", 64) + `"}]}`,
	} {
		if release(bad) == nil {
			t.Errorf("taken: %s", bad)
		}
	}
}

// TestCommandOfSeveralLinesIsShownAsItIs, however many bytes it has.
func TestCommandOfSeveralLinesIsShownAsItIs(t *testing.T) {
	for _, entry := range []string{"menuentry x {\n\tboot\n}", "menuentry xy {\n\tboot\n}"} {
		e := LogEvent{PCR: 8, Type: evIPL, Digest: hashOf([]byte(entry)), Data: []byte("grub_cmd: " + entry + "\x00")}
		log, err := ParseEventLog(AppendEvent(NewEventLog(), e))
		if err != nil {
			t.Fatal(err)
		}
		want := "grub_cmd: " + strings.NewReplacer("\n", "?", "\t", "?").Replace(entry)
		if text, covered := log.Events[1].Describe(); text != want || !covered {
			t.Errorf("%q, covered: %t", text, covered)
		}
	}
}

func TestWhatGRUBDidThatItDidNotDoThenIsTold(t *testing.T) {
	l := grubLab(t)
	before := l.facts(l.log)
	l.log = l.altered("set timeout=1", "timeout=1", "timeout=9")
	l.log = l.withEvent(73, func(e *LogEvent) { e.Digest = hashOf([]byte("initrd")) })
	told := strings.Join(Diff(before, l.facts(l.log)), "\n")
	for _, want := range []string{"GRUB ran what it did not run then, PCR 8: `set timeout=9`", "file 09e6c018… (described as (hd0,gpt3)/ostree/"} {
		if !strings.Contains(told, want) {
			t.Errorf("%q is missing in\n%s", want, told)
		}
	}
}
