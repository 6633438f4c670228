package rig

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/testdata/boot"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// Gateway is a machine that has booted: TPM with measurements, event log, helper.
// Its agent is started by who uses it, with Settings.
type Gateway struct {
	Settings agent.Settings
	Device   string
	Power    *tpmtest.Power

	stop func() error
}

// BootSoftware is what every gateway boots.
func BootSoftware() attest.Boot {
	digest := func(name string) attest.Digest { return sha256.Sum256([]byte(name)) }
	b := attest.Boot{
		Loader: digest("loader"), LoaderPath: `\EFI\BOOT\BOOTX64.EFI`, UKI: digest("uki"), UKIPath: `\EFI\Linux\rig.efi`,
		Kernel: digest("kernel"), CommandLine: "root=/dev/vda2 ro",
	}
	for _, name := range []string{".linux", ".osrel", ".cmdline", ".uname"} {
		b.Sections = append(b.Sections, attest.Section{Name: name, Digest: digest(name)})
	}
	return b
}

// Boot measures a boot into the chip and starts the helper. dir is the gateway's
// own; its path must leave room for socket names. trust is the fleet's folder.
func Boot(ctx context.Context, dir, trust string, power *tpmtest.Power) (*Gateway, error) {
	log, err := Measure(ctx, power)
	if err != nil {
		return nil, fmt.Errorf("measure boot: %w", err)
	}
	for _, sub := range []string{"helper", "boot"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "boot", "eventlog"), log, 0o600); err != nil {
		return nil, err
	}
	g := newGateway(dir, trust)
	g.Settings.TPM, g.Power = "unix:"+power.Socket, power
	return g, g.startHelper(dir)
}

// Bare starts the helper on a machine without a TPM, whose agent may do without.
func Bare(dir, trust string) (*Gateway, error) {
	if err := os.MkdirAll(filepath.Join(dir, "helper"), 0o700); err != nil {
		return nil, err
	}
	g := newGateway(dir, trust)
	g.Settings.TPM, g.Settings.Identity.AllowSoftwareKeys = "unix:"+filepath.Join(dir, "no-tpm"), true
	return g, g.startHelper(dir)
}

func newGateway(dir, trust string) *Gateway {
	s := agent.DefaultSettings()
	s.State, s.Trust = filepath.Join(dir, "state"), trust
	s.Socket, s.Helper = filepath.Join(dir, "agent.sock"), filepath.Join(dir, "helper.sock")
	s.Identity.Model = "rig"
	return &Gateway{Settings: s}
}

// Measure extends the PCRs as firmware, boot loader and systemd do, and returns
// the event log.
func Measure(ctx context.Context, power *tpmtest.Power) ([]byte, error) {
	raw, err := attest.CutAtFirstBootApplication(boot.EventLog)
	if err != nil {
		return nil, err
	}
	for _, event := range attest.BootEvents(BootSoftware()) {
		raw = attest.AppendEvent(raw, event)
	}
	log, err := attest.ParseEventLog(raw)
	if err != nil {
		return nil, err
	}
	var measured []tpmtest.Measurement
	for _, event := range log.Events {
		if event.Extends() {
			measured = append(measured, tpmtest.Measurement{PCR: event.PCR, Digest: event.Digest})
		}
	}
	for _, phase := range []string{"sysinit", "ready"} {
		measured = append(measured, tpmtest.Measurement{PCR: 11, Digest: sha256.Sum256([]byte(phase))})
	}
	return raw, power.Boot(ctx, measured)
}

func (g *Gateway) startHelper(dir string) error {
	listener, err := helper.Listen(g.Settings.Helper, os.Getuid())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	c := helper.Config{
		Listener: listener, PeerUID: os.Getuid(), Trust: g.Settings.Trust, State: filepath.Join(dir, "helper"),
		EventLog: filepath.Join(dir, "boot", "eventlog"), Software: "rig", Build: time.Unix(1, 0), BootID: "rig",
		EKName: func(ctx context.Context) ([]byte, error) { return ekName(ctx, g.Settings.TPM) },
		Reboot: func(context.Context) error { return nil }, Now: time.Now, Synced: func() bool { return true },
		FS: &fsx.FS{}, Log: Quiet(),
	}
	go func() { ended <- helper.Run(ctx, c) }()
	g.stop = func() error {
		cancel()
		return <-ended
	}
	return nil
}

// Close ends the helper. The TPM belongs to who switched it on.
func (g *Gateway) Close() error { return g.stop() }

func ekName(ctx context.Context, path string) ([]byte, error) {
	chip, err := tpm.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer chip.Close()
	ek, err := chip.EK(ctx, "")
	if err != nil {
		return nil, err
	}
	return ek.Name, nil
}
