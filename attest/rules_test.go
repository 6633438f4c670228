package attest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

const labLine = "root=PARTLABEL=slot-a rw rootfstype=ext4 console=ttyS0 panic=5 quiet systemd.show_status=0"

// withCommandLine returns the log of the same machine with another command line.
func (l *lab) withCommandLine(line string) []byte {
	return l.rewrite(func(e LogEvent) []LogEvent {
		if e.PCR == 12 || (e.PCR == 9 && e.Type == evEventTag) {
			e.Digest = CommandLineDigest(line)
		}
		if e.PCR == 12 {
			e.Data = utf16Bytes(line)
		}
		return []LogEvent{e}
	})
}

func TestAlteredCommandLineIsShownByItsWords(t *testing.T) {
	l := newLab(t)
	l.log = l.withCommandLine(strings.Replace(labLine, "quiet", "quiet init=/bin/sh", 1))
	r := l.want(l.evidence(), Untrusted,
		"untrusted: kernel command line: `quiet` became `quiet init=/bin/sh`, PCR 12, event 25; not part of any release")
	if r.Rules()[0].Rule != ruleCommandLine || r.Rules()[0].OK {
		t.Errorf("first rule: %+v", r.Rules()[0])
	}
	if r.Facts().Release != "" {
		t.Errorf("release %q", r.Facts().Release)
	}
}

func TestCommandLineWithTerminalEscapesIsShownHarmless(t *testing.T) {
	l := newLab(t)
	l.log = l.withCommandLine("\x1b[2Jtrusted\u202e \r\n" + strings.Repeat("x", 4000))
	r := l.want(l.evidence(), Untrusted, "kernel command line")
	for _, line := range r.Explanation() {
		if strings.ContainsAny(line, "\x1b\r\n\u202e") || len(line) > 4*maxText {
			t.Errorf("line of %d bytes: %q", len(line), line)
		}
	}
}

// "Changing one firmware event gives a verdict whose reason names it".
func TestChangedFirmwareEventIsNamed(t *testing.T) {
	t.Run("measured otherwise", func(t *testing.T) {
		l := newLab(t)
		l.log = l.withEvent(3, func(e *LogEvent) { e.Digest[0] ^= 1 })
		l.want(l.evidence(), Degraded, "degraded: firmware is not approved: event 3 (EV_EFI_PLATFORM_FIRMWARE_BLOB, PCR 0, described as firmware at 0x900000, 12582912 bytes) measures 83a04452…, in OVMF 2022.11 it is 82a04452…")
	})
	t.Run("log falsified", func(t *testing.T) {
		l := newLab(t)
		pcrs := l.boot(l.log)
		l.log = l.withEvent(3, func(e *LogEvent) { e.Digest[0] ^= 1 })
		r := l.want(l.evidenceOver(pcrs, nil), Untrusted, "event 3 (EV_EFI_PLATFORM_FIRMWARE_BLOB) was altered: the TPM saw 82a04452… as in OVMF 2022.11, the log says 83a04452…")
		if len(r.Facts().Firmware) != 0 {
			t.Error("facts from a PCR that does not replay")
		}
	})
	t.Run("no firmware approved", func(t *testing.T) {
		l := newLab(t)
		l.expect.Firmware = nil
		r := l.want(l.evidence(), Degraded, "none is approved yet")
		l.expect.Firmware = []FirmwareSet{r.Facts().FirmwareSet("learned")}
		l.want(l.evidence(), Trusted, "firmware approved")
	})
	t.Run("one more option ROM", func(t *testing.T) {
		l := newLab(t)
		rom := LogEvent{PCR: 2, Type: evBootDriver, Digest: Digest{7}, Data: imageLoad(fileNode("x.rom"))}
		l.log = l.rewrite(func(e LogEvent) []LogEvent {
			if e.Index == 17 {
				return []LogEvent{rom, e}
			}
			return []LogEvent{e}
		})
		l.want(l.evidence(), Degraded, "event 17 (EV_EFI_BOOT_SERVICES_DRIVER, PCR 2, described as x.rom) measures 07000000…")
	})
}

func TestFalseLogIsBlamedOnItsEvent(t *testing.T) {
	l := newLab(t)
	pcrs, good := l.boot(l.log), l.log
	l.log = AppendEvent(slices.Clone(good), LogEvent{PCR: 14, Type: evIPL, Digest: Digest{1}})
	l.want(l.evidenceOver(pcrs, nil), Untrusted, "the TPM saw none from event 37 (EV_IPL) on")
	l.log = good
	l.log = l.rewrite(func(e LogEvent) []LogEvent {
		if e.Index == 23 {
			return []LogEvent{{PCR: 4, Type: evIPL, Digest: Digest{8}}, e}
		}
		return []LogEvent{e}
	})
	l.want(l.evidenceOver(pcrs, nil), Untrusted, "the TPM never saw event 23 (EV_IPL)")
	l.log = good
	l.log = l.withEvent(9, func(e *LogEvent) { e.Data = []byte("abcd"); e.Digest = Digest{9} })
	l.want(l.evidenceOver(pcrs, nil), Untrusted, "event 9 (EV_SEPARATOR) is not what its digest says")
	l.log = good
	l.log = l.withEvent(22, func(e *LogEvent) { e.Digest[5] ^= 1 })
	l.want(l.evidenceOver(pcrs, nil), Untrusted, "one of events 20 to 36 is false or missing")
}

func TestNoPCROfTheSelectionMayDiffer(t *testing.T) {
	for _, pcr := range Selection() {
		l := newLab(t)
		pcrs := l.boot(l.log)
		pcrs[pcr] = Extend(pcrs[pcr], Digest{42})
		r, err := l.judge(l.evidenceOver(pcrs, nil))
		if err != nil {
			t.Fatal(err)
		}
		if want := pcr == imaPCR; (r.Grade() == Trusted) != want {
			t.Errorf("PCR %d extended by something unknown: %s", pcr, r.Grade())
		}
	}
}

// Event log disclosure: type and data are not covered by the digest.
func TestRetypedEventNeverPasses(t *testing.T) {
	bad := map[string]func(*lab){
		"boot application": func(l *lab) { l.log = l.withEvent(24, func(e *LogEvent) { e.Digest[0] ^= 1 }) },
		"command line":     func(l *lab) { l.log = l.withCommandLine("init=/bin/sh") },
		"UKI section":      func(l *lab) { l.log = l.withEvent(27, func(e *LogEvent) { e.Digest[0] ^= 1 }) },
		"extension": func(l *lab) {
			l.log = AppendEvent(l.log, LogEvent{PCR: 13, Type: evIPL, Digest: Digest{1}, Data: []byte("x")})
		},
	}
	for name, change := range bad {
		for _, kind := range []EventType{evNoAction, evSeparator, evEFIAction, evEventTag, evIPL, evBootApplication, evVariableDriver, 0x1234} {
			l := newLab(t)
			change(l)
			pcrs := l.boot(l.log)
			l.log = l.rewrite(func(e LogEvent) []LogEvent {
				if e.PCR == 4 || e.PCR >= 11 {
					e.Type = kind
				}
				return []LogEvent{e}
			})
			r, err := l.judge(l.evidenceOver(pcrs, nil))
			if err != nil {
				t.Fatal(err)
			}
			if r.Grade() != Untrusted {
				t.Errorf("%s as %s: %s", name, kind, r.Grade())
			}
		}
	}
}

// A running system can extend any PCR and write any log: it must not talk itself
// into Secure Boot.
func TestSecureBootClaimedBehindTheSeparatorIsIgnored(t *testing.T) {
	l := newLab(t)
	log, err := ParseEventLog(l.log)
	if err != nil {
		t.Fatal(err)
	}
	on := slices.Clone(log.Events[4].Data)
	on[len(on)-1] = 1
	fake := LogEvent{PCR: 7, Type: evVariableDriver, Digest: hashOf(on), Data: on}
	l.log = AppendEvent(l.log, fake)
	l.want(l.evidence(), Trusted, "Secure Boot off")
	pcrs := l.boot(l.log)
	hidden := l.withEvent(4, func(e *LogEvent) { e.Data = nil })
	l.log = hidden
	l.log = l.withEvent(9, func(e *LogEvent) { e.Type, e.Data = evEFIAction, nil })
	l.want(l.evidenceOver(pcrs, nil), Trusted, "Secure Boot unknown")
}

func TestSecureBootOnIsRead(t *testing.T) {
	l := newLab(t)
	l.policy.Rules = map[string]Severity{ruleSecureBoot: Distrust}
	l.want(l.evidence(), Untrusted, "Secure Boot off")
	l.log = l.withEvent(4, func(e *LogEvent) { e.Data[len(e.Data)-1] = 1; e.Digest = hashOf(e.Data) })
	l.want(l.evidence(), Trusted, "Secure Boot on")
}

func TestFirmwareDebuggerCanNotBeHidden(t *testing.T) {
	l := newLab(t)
	signal := []byte("UEFI Debug Mode")
	l.log = l.rewrite(func(e LogEvent) []LogEvent {
		if e.Index == 9 {
			return []LogEvent{{PCR: 7, Type: evEFIAction, Digest: hashOf(signal), Data: []byte("nothing")}, e}
		}
		return []LogEvent{e}
	})
	l.want(l.evidence(), Degraded, `firmware measured "UEFI Debug Mode" into PCR 7`)
}

func TestBootIsNotPiecedTogetherFromTwoReleases(t *testing.T) {
	l := newLab(t)
	one := l.policy.Releases[0]
	two := one
	two.Version = "1.1.0"
	two.CommandLines = []string{"quiet lockdown=integrity"}
	two.UKISections = map[string]Digest{".linux": {1}, ".osrel": {2}, ".cmdline": {3}}
	two.BootApplications = []Digest{{1}, {2}, {3}}
	l.policy.Releases = []Release{two, one}
	l.want(l.evidence(), Trusted, "release gw 1.0.0")
	l.log = l.withCommandLine("quiet lockdown=integrity")
	l.want(l.evidence(), Untrusted, "part of gw 1.1.0, but the images are those of gw 1.0.0")
	l.log = readFile(t, bootData, "ovmf-uki.eventlog")
	l.log = l.withEvent(24, func(e *LogEvent) { e.Digest = Digest{1} })
	l.want(l.evidence(), Untrusted, `boot application 01000000… (described as \EFI\Linux\gw-a.efi), PCR 4, event 24; not part of gw 1.0.0 but of gw 1.1.0`)
}

func TestUKISectionsAreWholeAndSingle(t *testing.T) {
	changes := map[string]func(*lab){
		"PCR 11, event 27; in gw 1.0.0 it is": func(l *lab) { l.log = l.withEvent(27, func(e *LogEvent) { e.Digest[0] ^= 1 }) },
		"was not measured into PCR 11": func(l *lab) {
			l.log = l.rewrite(func(e LogEvent) []LogEvent {
				if e.Index == 30 || e.Index == 31 {
					return nil
				}
				return []LogEvent{e}
			})
		},
		"was measured twice": func(l *lab) {
			l.log = l.rewrite(func(e LogEvent) []LogEvent {
				if e.Index == 28 {
					log, _ := ParseEventLog(readFile(l.t, bootData, "ovmf-uki.eventlog"))
					return []LogEvent{log.Events[26], log.Events[27], e}
				}
				return []LogEvent{e}
			})
		},
		"has no such section": func(l *lab) {
			l.log = AppendEvent(l.log, LogEvent{PCR: 11, Type: evIPL, Digest: sectionName(".dtb"), Data: utf16Bytes(".dtb")})
			l.log = AppendEvent(l.log, LogEvent{PCR: 11, Type: evIPL, Digest: Digest{3}, Data: utf16Bytes(".dtb")})
		},
		"no UKI section": func(l *lab) {
			l.log = AppendEvent(l.log, LogEvent{PCR: 11, Type: evIPL, Digest: Digest{3}, Data: utf16Bytes(".evil")})
		},
	}
	for text, change := range changes {
		l := newLab(t)
		change(l)
		l.want(l.evidence(), Untrusted, text)
	}
}

func TestBootPhasesAreAKnownPrefix(t *testing.T) {
	for _, path := range []string{
		"", "sysinit", "sysinit ready", "enter-initrd leave-initrd sysinit ready", "sysinit ready gatewarden-lock",
		"sysinit ready shutdown", "sysinit ready shutdown final",
	} {
		l := newLab(t)
		l.phases = strings.Fields(path)
		r := l.want(l.evidence(), Trusted, "")
		if !slices.Equal(r.Facts().Phases, l.phases) {
			t.Errorf("phases %q read as %q", l.phases, r.Facts().Phases)
		}
	}
	for _, path := range []string{"ready", "ready sysinit", "sysinit sysinit", "sysinit shutdown", "sysinit ready evil"} {
		l := newLab(t)
		l.phases = strings.Fields(path)
		l.want(l.evidence(), Untrusted, "something else was extended")
	}
	l := newLab(t)
	l.policy.Releases[0].Phases = [][]string{{"sysinit", "ready"}}
	l.phases = strings.Fields("sysinit ready shutdown")
	l.want(l.evidence(), Untrusted, "has no such path")
}

// LAB: a GRUB boot leaves no event log; that is a real field case.
func TestMachineWithoutEventLogIsUntrustedAndToldWhy(t *testing.T) {
	l := newLab(t)
	pcrs := l.boot(l.log)
	l.log = nil
	r := l.want(l.evidenceOver(pcrs, nil), Untrusted, "event log: the machine has none")
	if r.Facts().SecureBoot != "unknown" {
		t.Errorf("Secure Boot %s without a log", r.Facts().SecureBoot)
	}
	l.log = []byte("garbage that is no log but is long enough to hold one")
	l.want(l.evidenceOver(pcrs, nil), Untrusted, "at byte")
	legacy := make([]byte, 0, 64)
	legacy = append(legacy, 0, 0, 0, 0, 4, 0, 0, 0)
	legacy = append(legacy, make([]byte, 20)...)
	l.log = append(legacy, 4, 0, 0, 0, 0, 0, 0, 0)
	l.want(l.evidenceOver(pcrs, nil), Untrusted, "sha256: the event log does not have that bank")
}

func TestCountersThatGoBackDistrust(t *testing.T) {
	l := newLab(t)
	last := l.want(l.evidence(), Trusted, "").Remember(nil)
	l.expect.Last = last
	forward := []Clock{
		{Milliseconds: 1000, ResetCount: 7, RestartCount: 1, Safe: true},
		{Milliseconds: 1001, ResetCount: 7, RestartCount: 1},
		{ResetCount: 7, RestartCount: 2},
		{ResetCount: 8},
		{Milliseconds: 1, ResetCount: 1000},
	}
	for _, clock := range forward {
		l.clock = clock
		l.want(l.evidence(), Trusted, "")
	}
	back := map[string]Clock{
		"TPM resets went back by 1":             {Milliseconds: 2000, ResetCount: 6, RestartCount: 9, Safe: true},
		"TPM restarts went back by 1":           {Milliseconds: 2000, ResetCount: 7, RestartCount: 0, Safe: true},
		"went back by 1 ms without a reset":     {Milliseconds: 999, ResetCount: 7, RestartCount: 1, Safe: true},
		"TPM resets went back by 2147483640":    {Milliseconds: 999, ResetCount: 7 + 1<<31 + 8, RestartCount: 1, Safe: true},
		"TPM resets went back by 7: the chip's": {},
	}
	for text, clock := range back {
		l.clock = clock
		l.want(l.evidence(), Untrusted, text)
	}
	// A copy of the chip's state may be reset until its count is high enough: its clock
	// is too low then.
	last.Clock.Milliseconds = 1 << 30
	l.clock = Clock{Milliseconds: 1<<30 - clockLoss, ResetCount: 9}
	l.want(l.evidence(), Trusted, "")
	l.clock.Milliseconds--
	l.want(l.evidence(), Untrusted, "a power cut costs at most 4194304: the chip's state is an older copy")
	// Obfuscated counters wrap at 2^32.
	l.expect.Last.Clock = Clock{Key: hashOf(l.expect.AK), ResetCount: 1<<32 - 1, RestartCount: 5}
	l.clock = Clock{ResetCount: 0, RestartCount: 1}
	l.want(l.evidence(), Trusted, "")
	// Another key's counters say nothing.
	l.expect.Last = &Memory{Clock: Clock{Key: Digest{1}, ResetCount: 9999}}
	l.want(l.evidence(), Trusted, "")
}

func TestFirmwareOfTheChipIsTrackedOverTime(t *testing.T) {
	l := newLab(t)
	l.clock.FirmwareVersion = 1 << 63 // obfuscated: only differences count
	l.expect.Last = l.want(l.evidence(), Trusted, "").Remember(nil)
	l.clock.FirmwareVersion++
	l.want(l.evidence(), Untrusted, "the chip's firmware changed without a reset")
	l.clock.ResetCount++
	r := l.want(l.evidence(), Trusted, "")
	if !strings.Contains(strings.Join(r.Explanation(), "\n"), "the chip's firmware is newer than then") {
		t.Errorf("it is not told: %q", r.Explanation())
	}
	l.clock.FirmwareVersion -= 2
	l.want(l.evidence(), Untrusted, "the chip's firmware is older than at the last quote")
}

func TestWhatChangedSinceTheLastTrustedBootIsTold(t *testing.T) {
	l := newLab(t)
	last := l.want(l.evidence(), Trusted, "").Remember(nil)
	if again := last.Trusted; len(Diff(again, again)) != 0 {
		t.Errorf("a boot differs from itself: %v", Diff(again, again))
	}
	l.expect.Last = last
	l.log = l.withCommandLine(labLine + " init=/bin/sh")
	l.log = l.withEvent(24, func(e *LogEvent) { e.Digest = Digest{1} })
	l.log = l.withEvent(3, func(e *LogEvent) { e.Digest = Digest{2} })
	r := l.want(l.evidence(), Untrusted, "(and 1 more)")
	text := strings.Join(r.Explanation(), "\n")
	for _, want := range []string{
		"changed since the last trusted boot: firmware: event 3",
		"changed since the last trusted boot: kernel command line: `systemd.show_status=0` became `systemd.show_status=0 init=/bin/sh`, PCR 12, event 25",
		`changed since the last trusted boot: boot application 01000000… (described as \EFI\Linux\gw-a.efi) is new, PCR 4, event 24`,
		"failed, distrusts: kernel command line", "failed, degrades: firmware is not approved", "noted: Secure Boot off", "held: UKI sections are those of gw 1.0.0",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("explanation lacks %q:\n%s", want, text)
		}
	}
	if kept := r.Remember(last); kept.Trusted != last.Trusted || kept.Clock != r.Clock() {
		t.Error("an untrusted boot replaced the memory of the trusted one")
	}
}

func TestExceptionHoldsForItsDeviceAndTime(t *testing.T) {
	l := newLab(t)
	l.log = l.withCommandLine("quiet debug")
	l.policy.Exceptions = []Exception{{Rule: ruleCommandLine, Reason: "debugging a modem", Expires: labNow().Add(time.Hour), Device: labDevice}}
	r := l.want(l.evidence(), Trusted, "trusted")
	if !strings.Contains(strings.Join(r.Explanation(), "\n"), "excepted until 2026-11-23: debugging a modem") {
		t.Errorf("explanation: %q", r.Explanation())
	}
	l.policy.Exceptions[0].Device = "gw-ponmlkjihgfedcba"
	l.want(l.evidence(), Untrusted, "kernel command line")
	l.policy.Exceptions[0].Device, l.expect.Now = "", labNow().Add(time.Hour)
	l.want(l.evidence(), Untrusted, "kernel command line")
}

func TestResultsOfRulesAreJSON(t *testing.T) {
	l := newLab(t)
	data, err := json.Marshal(l.want(l.evidence(), Trusted, "").Rules())
	if err != nil || !strings.Contains(string(data), `"rule":"pcr-replay","ok":true`) {
		t.Errorf("%s, %v", data, err)
	}
}
