package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent/clock"
	"github.com/gatewarden/gatewarden/agent/doctor"
	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/tpm/core"
	"github.com/gatewarden/gatewarden/update/boot"
)

// helperIdle is how long the helper waits for work before it leaves memory; its
// socket starts it again.
const helperIdle = 30 * time.Second

const defaultSlots = "/var/lib/gatewarden-helper/slots"

func helperVerb(o *options) *cobra.Command {
	c := helper.Config{Reboot: helper.Systemctl, Now: time.Now, Synced: clock.KernelSynced, FS: &fsx.FS{}}
	var listen, peer, chip, slots, product, rebootFile string
	var counter bool
	cmd := &cobra.Command{
		Use:   "helper",
		Short: "run the root helper (systemd does this)",
		Long: `Run the part that may change the machine. It has no network, takes requests only
from the agent's user, and verifies by itself every signed object that a request
carries. systemd starts it through its socket; with --listen it makes its own.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			auth, err := core.ReadAuth(os.Getenv("CREDENTIALS_DIRECTORY"))
			if err != nil {
				return err
			}
			b := build()
			c.Software, c.Build, c.Log = b.Version, b.Time, o.logger(false)
			c.EKName = func(ctx context.Context) ([]byte, error) { return deviceName(ctx, &c, chip, auth) }
			boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
			if err != nil {
				return fmt.Errorf("read boot id: %w", err)
			}
			c.BootID = strings.TrimSpace(string(boot))
			c.Updates = updates(slots, product, c)
			if c.Updates != nil && counter && countsEpochs(&c, chip) {
				c.Updates.Counter = newEpochCounter(c, chip, auth)
			}
			if rebootFile != "" {
				c.Reboot = func(context.Context) error { return c.FS.WriteFile(rebootFile, nil, 0o644) }
			}
			if c.PeerUID < 0 {
				if c.PeerUID, err = userID(peer); err != nil {
					return err
				}
			}
			if c.Listener, err = helperListener(listen, &c); err != nil {
				return err
			}
			return helper.Run(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "", "make the socket at this `PATH` instead of taking systemd's")
	f.StringVar(&peer, "peer", "gatewarden", "the agent's `USER`: the only one that may ask")
	f.IntVar(&c.PeerUID, "peer-uid", -1, "the same by its number `N`; it goes before --peer")
	f.StringVar(&c.Trust, "trust", "/etc/gatewarden/trust", "`FOLDER` of the trust documents, root-owned")
	f.StringVar(&c.State, "state", "/var/lib/gatewarden-helper", "`FOLDER` of the helper's own records")
	f.StringVar(&chip, "tpm", "/dev/tpmrm0", "`DEVICE` of the TPM, swtpm:PATH of an emulator, or unix:PATH of a resource manager")
	f.StringVar(&c.EventLog, "event-log", "/sys/kernel/security/tpm0/binary_bios_measurements", "the firmware's event log `FILE`")
	f.StringVar(&c.IMALog, "ima-log", "/sys/kernel/security/ima/binary_runtime_measurements", "the kernel's IMA list `FILE`")
	f.StringVar(&slots, "slots", defaultSlots, "`FOLDER` with slot-a and slot-b, for images that have no device")
	f.StringVar(&product, "product-file", doctor.ProductFile, "`FILE` that says what this machine is, root-owned; without it nothing can be installed")
	f.BoolVar(&counter, "epoch-counter", true, "hold the security epoch by a counter in the TPM too, which is made when there is none; sealed secrets need it")
	f.StringVar(&rebootFile, "reboot-file", "", "make this `FILE` instead of rebooting, for machines without systemd")
	return cmd
}

// helperListener makes the socket, or takes the one that systemd passed; only then
// it is right to leave when idle.
func helperListener(path string, c *helper.Config) (*net.UnixListener, error) {
	if path != "" {
		return helper.Listen(path, c.PeerUID)
	}
	c.Idle = helperIdle
	l, err := helper.Activated()
	if err == nil && l == nil {
		err = errors.New("no socket was passed: start gatewarden-helper.socket, or give --listen PATH")
	}
	return l, err
}

// userID looks a user up in /etc/passwd.
func userID(name string) (int, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("look up the agent's user: %w\nhint: the package makes the user gatewarden; --peer names another", err)
	}
	return strconv.Atoi(u.Uid)
}

// updates is nil where nothing can be installed: the other verbs work all the same.
func updates(slots, product string, c helper.Config) *helper.Updates {
	p, err := helper.LoadProduct(c.FS, product)
	if errors.Is(err, fs.ErrNotExist) {
		c.Log.Info("no release can be installed: this machine has no product file", "file", product)
		return nil
	}
	var loader boot.Loader
	if err == nil {
		loader, err = boot.Detect(loaderDeps(c.FS, slots, p.ESP))
	}
	if err != nil {
		c.Log.Error("no release can be installed", "error", err)
		return nil
	}
	return &helper.Updates{Loader: loader, Slots: slots, Product: product}
}

func loaderDeps(fs *fsx.FS, slots, esp string) boot.Deps {
	return boot.Deps{FS: fs, Folder: slots, ESP: esp, EFIVars: "/sys/firmware/efi/efivars", CommandLine: "/proc/cmdline"}
}

// ekName reads the Name of the endorsement key; the connection to the chip is
// closed again, because the helper is seldom at work.
func ekName(ctx context.Context, path string, auth core.Auth) ([]byte, error) {
	chip, err := core.Open(ctx, path, core.WithAuth(auth))
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
