package demo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/testdata/boot"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

const (
	goodCommandLine = "root=PARTLABEL=slot-a ro quiet console=ttyS0"
	alteredWords    = "init=/bin/sh"
)

// slot is the boot software of a gateway: files that the firmware measures.
type slot struct{ dir string }

// newSlot lays down release 1.
func newSlot(dir string) (slot, error) {
	files := map[string]string{
		"systemd-boot.efi": "boot loader of the demo", "linux": "kernel of release 1.0.0",
		"osrel": "ID=gatewarden-demo\nVERSION_ID=1.0.0\n", "cmdline": goodCommandLine, "uname": "6.1.0-gw",
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return slot{}, err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return slot{}, err
		}
	}
	return slot{dir}, nil
}

func (s slot) digest(names ...string) (attest.Digest, error) {
	h := sha256.New()
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			return attest.Digest{}, err
		}
		h.Write(data)
	}
	return attest.Digest(h.Sum(nil)), nil
}

// measure says what booting the slot with this command line will measure.
func (s slot) measure(commandLine string) (attest.Boot, error) {
	b := attest.Boot{LoaderPath: `\EFI\BOOT\BOOTX64.EFI`, UKIPath: `\EFI\Linux\gw-a.efi`, CommandLine: commandLine}
	for _, name := range []string{"linux", "osrel", "cmdline", "uname"} {
		digest, err := s.digest(name)
		if err != nil {
			return b, err
		}
		b.Sections = append(b.Sections, attest.Section{Name: "." + name, Digest: digest})
	}
	var err error
	if b.Loader, err = s.digest("systemd-boot.efi"); err != nil {
		return b, err
	}
	if b.UKI, err = s.digest("linux", "osrel", "cmdline", "uname"); err != nil {
		return b, err
	}
	b.Kernel, err = s.digest("linux")
	return b, err
}

// boot does what the firmware, the boot loader and systemd do to the TPM, and
// leaves the event log where the helper finds it.
func (s slot) boot(ctx context.Context, power *tpmtest.Power, commandLine, logPath string) error {
	raw, err := attest.CutAtFirstBootApplication(boot.EventLog)
	if err != nil {
		return err
	}
	b, err := s.measure(commandLine)
	if err != nil {
		return fmt.Errorf("measure slot: %w", err)
	}
	for _, event := range attest.BootEvents(b) {
		raw = attest.AppendEvent(raw, event)
	}
	log, err := attest.ParseEventLog(raw)
	if err != nil {
		return fmt.Errorf("read own event log: %w", err)
	}
	for _, event := range log.Events {
		if !event.Extends() {
			continue
		}
		if err := power.Extend(ctx, event.PCR, event.Digest); err != nil {
			return fmt.Errorf("extend PCR %d: %w", event.PCR, err)
		}
	}
	for _, phase := range []string{"sysinit", "ready"} {
		if err := power.Extend(ctx, 11, sha256.Sum256([]byte(phase))); err != nil {
			return fmt.Errorf("extend boot phase: %w", err)
		}
	}
	return os.WriteFile(logPath, raw, 0o600)
}
