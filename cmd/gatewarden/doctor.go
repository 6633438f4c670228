package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/clock"
	"github.com/gatewarden/gatewarden/agent/doctor"
	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/internal/cli"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/update/boot"
)

// chipPatience is how long a chip may take to say what it is.
const chipPatience = 30 * time.Second

func doctorVerb(o *options) *cobra.Command {
	abilities := strings.Join(doctor.Abilities(), ",")
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "say what this machine can do as a gateway, and what is missing",
		Long: `Look at TPM, firmware, kernel, disk and configuration, and say whether this machine
can enrol, attest, seal, update and report; for all that is not well, what it means
and what to do. It needs no running agent, no configuration and no TPM, and changes
nothing. Root sees everything; what others can't look at is said to be unknown.

Exit codes: 0 no problem, 1 there are problems, 3 no problem was found but something
could not be looked at. Advice changes nothing of that. With --for, only the
abilities named count.`,
		Example: "  gatewarden doctor\n  gatewarden doctor --for enrol,attest --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted := strings.Split(abilities, ",")
			for _, ability := range wanted {
				if !slices.Contains(doctor.Abilities(), ability) {
					return cli.NewUsageError(fmt.Errorf("there is no ability %q; there are %s", ability, strings.Join(doctor.Abilities(), ", ")))
				}
			}
			d := doctor.Run(cmd.Context(), o.machine())
			if err := o.print(d, func(w io.Writer) { doctor.Print(w, d) }); err != nil {
				return err
			}
			return doctorExit(d, wanted)
		},
	}
	cmd.Flags().StringVar(&abilities, "for", abilities, "the `ABILITIES` that this machine is to have")
	return cmd
}

func doctorExit(d doctor.Diagnosis, wanted []string) error {
	code := cli.OK
	for _, c := range d.Abilities {
		switch {
		case !slices.Contains(wanted, c.Ability):
		case c.Answer == "no":
			return cli.Exit(cli.Error)
		case c.Answer == "unknown":
			code = exitWarning
		}
	}
	if code == cli.OK {
		return nil
	}
	return cli.Exit(code)
}

// machine is the one that this program runs on.
func (o *options) machine() *doctor.Machine {
	s, err := agent.LoadSettings(o.config)
	if err != nil {
		s = agent.DefaultSettings()
	}
	if o.socket != "" {
		s.Socket = o.socket
	}
	return &doctor.Machine{
		Root: "/", UID: os.Geteuid(), Settings: s, Config: o.config, ConfigErr: err, Build: build().Time, Now: time.Now,
		Kernel:  doctor.Kernel{Landlock: ll.LandlockGetABIVersion, Synced: clock.KernelSynced, Volume: doctor.StatVolume, Block: doctor.IsBlock},
		Chip:    func(ctx context.Context) (*doctor.Chip, error) { return readChip(ctx, s.TPM) },
		Product: readProduct, Loader: findLoader,
	}
}

func readChip(ctx context.Context, path string) (*doctor.Chip, error) {
	ctx, cancel := context.WithTimeout(ctx, chipPatience)
	defer cancel()
	chip, err := tpm.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer chip.Close()
	return doctor.ReadChip(ctx, chip)
}

func readProduct() (doctor.Product, error) {
	p, err := helper.LoadProduct(&fsx.FS{}, doctor.ProductFile)
	if err != nil {
		return doctor.Product{}, err
	}
	return doctor.Product{ESP: p.ESP, Devices: p.Devices}, nil
}

// findLoader names the first boot loader that says it booted this machine, or says
// why the last in the list, the one for real machines, did not; but first that one may
// not be asked. To ask changes nothing.
func findLoader(p doctor.Product) (name string, err error) {
	var denied error
	for _, l := range boot.All(loaderDeps(&fsx.FS{}, defaultSlots, p.ESP)) {
		if err = l.Probe(); err == nil {
			return l.Name, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			denied = err
		}
	}
	return "", cmp.Or(denied, err)
}
