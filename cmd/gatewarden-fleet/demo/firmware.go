package demo

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/testdata/boot"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
	slots "github.com/gatewarden/gatewarden/update/boot"
)

const (
	product  = "gatewarden-demo"
	model    = "demo-gateway"
	channel  = "stable"
	version1 = "1.0.0"

	goodCommandLine = "root=gw-root ro quiet console=ttyS0"
	alteredWords    = "init=/bin/sh"
)

// software is one release of the demo's product: what its slots hold.
type software struct {
	version    string
	generation uint64 // of the root file system
	uki        []byte
}

func newSoftware(version string, generation uint64) software {
	return software{version: version, generation: generation, uki: boot.UKI("kernel of release "+version, "ID="+product+"\nVERSION_ID="+version+"\n", goodCommandLine)}
}

// loader is the boot loader that all machines have.
func loader() []byte {
	return boot.PE(boot.Section{Name: ".text", Data: []byte("boot loader of the demo")})
}

// machine is a gateway's storage: two slots, of which a boot loader starts one.
type machine struct{ dir string }

// newMachine is the factory: release 1 in slot a, slot b of the same size and empty.
func newMachine(dir string, s software) (machine, error) {
	m := machine{dir}
	for _, slot := range []string{"a", "b"} {
		if err := os.MkdirAll(filepath.Dir(m.image(slot, "boot")), 0o700); err != nil {
			return m, err
		}
	}
	about, err := json.Marshal(map[string]any{
		"v": 1, "product": product, "channel": channel, "hardware": model, "version": s.version, "epoch": 1,
	})
	if err != nil {
		return m, err
	}
	return m, errors.Join(
		os.WriteFile(m.image("a", "boot"), s.uki, 0o600),
		os.WriteFile(m.image("a", "rootfs"), rootfs(s.generation), 0o600),
		os.WriteFile(m.productFile(), about, 0o600),
		empty(m.image("b", "boot"), int64(len(s.uki))+1<<20),
		empty(m.image("b", "rootfs"), slotSize),
		slots.FileInit(dir, "a"),
	)
}

// empty makes a slot that holds nothing yet.
func empty(path string, size int64) error {
	return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size))
}

func (m machine) image(slot, kind string) string {
	return filepath.Join(m.dir, "slot-"+slot, kind+".img")
}

func (m machine) productFile() string { return filepath.Join(m.dir, "product.json") }

// boot does what firmware, boot loader and systemd do: it chooses the slot,
// extends what it starts into the TPM, and leaves the event log where the helper
// finds it. words are added to the image's kernel command line. It returns the slot.
func (m machine) boot(ctx context.Context, power *tpmtest.Power, words, logPath string) (string, error) {
	slot, err := slots.FileBoot(m.dir)
	if err != nil {
		return "", err
	}
	uki, err := os.ReadFile(m.image(slot, "boot"))
	if err != nil {
		return "", fmt.Errorf("read boot image: %w", err)
	}
	raw, err := bootLog(uki, words)
	if err != nil {
		return "", err
	}
	if err := extend(ctx, power, raw); err != nil {
		return "", err
	}
	for _, phase := range []string{"sysinit", "ready"} { // which no log has
		if err := power.Extend(ctx, 11, sha256.Sum256([]byte(phase))); err != nil {
			return "", fmt.Errorf("extend boot phase: %w", err)
		}
	}
	if err := os.Remove(logPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return slot, os.WriteFile(logPath, raw, 0o600)
}

// bootLog is the recorded firmware's part of an event log, then what booting this
// image adds to it.
func bootLog(uki []byte, words string) ([]byte, error) {
	b, err := measured(uki)
	if err != nil {
		return nil, err
	}
	if words != "" {
		b.CommandLine += " " + words
	}
	raw, err := attest.CutAtFirstBootApplication(boot.EventLog)
	if err != nil {
		return nil, err
	}
	for _, event := range attest.BootEvents(b) {
		raw = attest.AppendEvent(raw, event)
	}
	return raw, nil
}

// measured says what starting this image measures.
func measured(uki []byte) (attest.Boot, error) {
	b, err := attest.ReadUKI(uki, loader())
	b.LoaderPath, b.UKIPath = `\EFI\BOOT\BOOTX64.EFI`, `\EFI\Linux\gatewarden.efi`
	return b, err
}

// extend plays a log into the TPM.
func extend(ctx context.Context, power *tpmtest.Power, raw []byte) error {
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
	return nil
}
