package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/tpm"
)

// hidden hides from everybody but root what each check looks at.
func hidden() map[string]func(*box) {
	denied := &fs.PathError{Op: "open", Path: "x", Err: unix.EACCES}
	hide := func(path string) func(*box) { return func(b *box) { b.chmod(path, 0) } }
	return map[string]func(*box){
		"tpm":         func(b *box) { b.c, b.chipErr = nil, fmt.Errorf("%w: %w", tpm.ErrAbsent, denied) },
		"tpm-access":  hide("/etc/group"),
		"event-log":   hide(eventLogFile),
		"secure-boot": hide("/sys/firmware/efi/efivars/SecureBoot" + globalVariable),
		"ima":         hide(imaFile),
		"verity":      hide("/proc/cmdline"),
		"seal":        hide("/var/lib/gatewarden/update"),
		"config":      func(b *box) { b.ConfigErr = denied },
		"trust":       hide("/etc/gatewarden/trust/operators.json"),
		"accounts":    hide("/etc/passwd"),
		"helper":      hide("/run/gatewarden"),
		"agent":       hide("/run/gatewarden"),
		"product":     func(b *box) { b.productIs(denied) },
		"boot-loader": hide("/efi/loader/loader.conf"),
		"disk":        func(b *box) { b.Kernel.Volume = func(string) (Volume, error) { return Volume{}, denied } },
		"clock":       hide("/var/lib/gatewarden"),
		"kernel":      hide("/proc/sys/kernel/osrelease"),
	}
}

// TestWhatOnlyRootCanSeeIsUnknownAndNeverPasses: each check, asked by a user who may
// not look, says so and leaves its abilities open.
func TestWhatOnlyRootCanSeeIsUnknownAndNeverPasses(t *testing.T) {
	machines := hidden()
	for _, check := range All() {
		hide := machines[check.Name]
		delete(machines, check.Name)
		if hide == nil { // what it needs everybody may see, or the chip says it
			if check.Ask == nil && check.Name != "watchdog" {
				t.Errorf("no machine of this test hides what %s looks at", check.Name)
			}
			continue
		}
		t.Run(check.Name, func(t *testing.T) {
			b := newBox(t)
			asUser(t, func() { b.fine(check.Name) }) // a user who may look sees as much
			hide(b)
			b.again()
			asUser(t, func() {
				f := b.sees(check.Name, "can't ", "Run gatewarden doctor as root")
				if strings.Join(f.Abilities, " ") != strings.Join(words(check.For), " ") {
					t.Errorf("%q are unknown, not %s", f.Abilities, check.For)
				}
				for _, can := range b.last.Abilities {
					for _, ability := range f.Abilities {
						if can.Ability == ability && can.Answer == "yes" {
							t.Errorf("%s passes", ability)
						}
					}
				}
			})
		})
	}
	for name := range machines {
		t.Errorf("there is no check %s", name)
	}
}

// asUser runs work on a thread that may read what everybody may.
func asUser(t *testing.T, work func()) {
	t.Helper()
	if os.Getuid() != 0 {
		work()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		// Capabilities that pass over modes go with user 0 (capabilities(7)).
		if _, _, errno := unix.RawSyscall(unix.SYS_SETFSUID, 65534, 0, 0); errno != 0 {
			t.Error(errno)
			return
		}
		work()
	}()
	<-done
}

// TestWithoutAChipOneFindingNamesWhatWasNotAsked instead of one for each.
func TestWithoutAChipOneFindingNamesWhatWasNotAsked(t *testing.T) {
	b := newBox(t)
	b.c, b.chipErr = nil, errors.New("gone")
	f := b.sees("tpm", "Solve what is said of the TPM first")
	for _, check := range All() {
		if check.Ask != nil && !strings.Contains(f.Found, check.Name) {
			t.Errorf("%s is not named in %q", check.Name, f.Found)
		}
	}
	b.sees("event-log", "can't compare the event log with the TPM")
	b.sees("ima", "can't compare the IMA list with the TPM")
}

// TestWithSoftwareKeysAGatewayEnrolsAndProvesNothing: what is missing for good is no,
// the rest is not held up by it.
func TestWithSoftwareKeysAGatewayEnrolsAndProvesNothing(t *testing.T) {
	b := newBox(t)
	broken()["tpm.software-keys"](b)
	b.remove("/sys/kernel/security/tpm0")
	d := Run(t.Context(), b.Machine)
	for ability, want := range map[string]string{Enrol: "yes", Attest: "no", Seal: "no", Update: "yes", Report: "yes"} {
		for _, c := range d.Abilities {
			if c.Ability == ability && c.Answer != want {
				t.Errorf("%s: %s because of %q, want %s", ability, c.Answer, c.Because, want)
			}
		}
	}
}

// TestAnErrorOfTheDiskIsUnknownToo: a folder where a file belongs is neither absence
// nor a missing right.
func TestAnErrorOfTheDiskIsUnknownToo(t *testing.T) {
	for name, path := range map[string]string{
		"event-log": eventLogFile, "ima": imaFile, "verity": "/proc/cmdline", "trust": "/etc/gatewarden/trust/fleet.json",
		"seal": "/var/lib/gatewarden/update/running.json", "boot-loader": "/efi/loader/loader.conf", "kernel": "/proc/sys/kernel/osrelease",
	} {
		b := newBox(t)
		b.remove(path)
		b.must(os.Mkdir(b.at(path), 0o755))
		b.sees(name, "Find out why it can't be read")
	}
}
