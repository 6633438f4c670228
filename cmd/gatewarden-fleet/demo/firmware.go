package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
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

// software is one release of a product: what its slots hold.
type software struct {
	product    string
	version    string
	epoch      uint64
	generation uint64 // of the root file system
	schema     int    // of its data, without which its service does not work
	uki        []byte
}

func newSoftware(version string, epoch, generation uint64) software {
	return software{
		product: product, version: version, epoch: epoch, generation: generation, schema: dataSchema,
		uki: boot.UKI("kernel of release "+version, "ID="+product+"\nVERSION_ID="+version+"\n", goodCommandLine),
	}
}

// dataSchema is what the machines' data partitions have.
const dataSchema = 2

// service is the program for which the product exists, in its root file system. It
// says how it does, as any program may (docs/health.md).
func (s software) service() string {
	return fmt.Sprintf(`#!/bin/sh
# The service of release %s.
have=$(cat "$DATA/schema")
if [ "$have" -ge %d ]; then
	echo "ok serving data of schema $have"
else
	echo "critical data has schema $have, %d is needed"
fi >"$HEALTH/service"
`, s.version, s.schema, s.schema)
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
	for _, folder := range []string{filepath.Dir(m.image("a", "")), filepath.Dir(m.image("b", "")), m.data(), m.health()} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return m, err
		}
	}
	about, err := json.Marshal(map[string]any{
		"v": 1, "product": product, "channel": channel, "hardware": model, "version": s.version, "epoch": s.epoch,
	})
	if err != nil {
		return m, err
	}
	return m, errors.Join(
		os.WriteFile(m.image("a", "boot"), s.uki, 0o600),
		os.WriteFile(m.image("a", "rootfs"), rootfs(s), 0o600),
		os.WriteFile(filepath.Join(m.data(), "schema"), fmt.Appendln(nil, dataSchema), 0o600),
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

func (m machine) data() string        { return filepath.Join(m.dir, "data") }
func (m machine) health() string      { return filepath.Join(m.dir, "health") }
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
	return slot, errors.Join(os.WriteFile(logPath, raw, 0o600), m.serve(ctx, slot))
}

// serve starts the product's service out of the slot that booted.
func (m machine) serve(ctx context.Context, slot string) error {
	f, err := os.Open(m.image(slot, "rootfs"))
	if err != nil {
		return fmt.Errorf("open root file system: %w", err)
	}
	defer f.Close()
	head := make([]byte, serviceSize)
	if _, err := io.ReadFull(f, head); err != nil {
		return fmt.Errorf("read service: %w", err)
	}
	program := exec.CommandContext(ctx, "/bin/sh", "-c", string(bytes.TrimRight(head, "\x00")))
	program.Env = []string{"PATH=/usr/bin:/bin", "DATA=" + m.data(), "HEALTH=" + m.health()}
	if out, err := program.CombinedOutput(); err != nil {
		return fmt.Errorf("run service of slot %s: %w\n%s", slot, err, out)
	}
	return nil
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
