package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet"
)

func policyLearn(o *options) *cobra.Command {
	var p attest.Policy
	var product, version, with string
	cmd := &cobra.Command{
		Use:   "learn LOG",
		Short: "print a policy by which the boot in an event log is good",
		Long: `Print a policy by which the boot in LOG is good: a copy of a gateway's
/sys/kernel/security/tpm0/binary_bios_measurements, or what gatewarden-fleet devices
evidence DEVICE prints. The log is taken at its word: use that of a gateway that you
trust, and read what is printed before you sign it.

With --with, the boot is put into the policy in FILE, as one more release or in the
place of the one of that name. Releases that are built with their UKI need none of
this: they bring their values along.`,
		Example: "  gatewarden-fleet policy learn eventlog --fleet example --product gateway --version 1.0.0 > policy.json\n" +
			"  gatewarden-fleet policy learn eventlog --with policy.json --product gateway --version 1.1.0 > next.json",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			release, err := learn(args[0], product, version)
			if err != nil {
				return err
			}
			if with != "" {
				old, err := fleet.ReadPolicy(with)
				if err != nil {
					return err
				}
				p = *old
			}
			return o.printPolicy(p, release)
		},
	}
	cmd.Flags().StringVar(&p.Fleet, "fleet", "", "`NAME` of the fleet")
	cmd.Flags().StringVar(&with, "with", "", "add the boot to the policy in `FILE`")
	cmd.Flags().StringVar(&product, "product", "", "`NAME` of the product that booted")
	cmd.Flags().StringVar(&version, "version", "", "its `VERSION`")
	cmd.MarkFlagsOneRequired("fleet", "with")
	cmd.MarkFlagsMutuallyExclusive("fleet", "with")
	for _, name := range []string{"product", "version"} {
		_ = cmd.MarkFlagRequired(name) // fails only for a flag that does not exist
	}
	return cmd
}

// learn reads the reference values of a boot.
func learn(path, product, version string) (attest.Release, error) {
	raw, err := readInput(path)
	if err != nil {
		return attest.Release{}, err
	}
	if bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{")) {
		record, err := attest.ParseRecorded(raw)
		if err != nil {
			return attest.Release{}, fmt.Errorf("%s: %w\nhint: gatewarden-fleet devices evidence DEVICE prints it", path, err)
		}
		raw = record.Evidence.EventLog.Bytes
	}
	log, err := attest.ParseEventLog(raw)
	if err != nil {
		return attest.Release{}, fmt.Errorf("%s: %w", path, err)
	}
	r, err := log.Release(product, version)
	if err != nil {
		return r, fmt.Errorf("%s: %w\nhint: gatewarden attest log FILE shows an event log", path, err)
	}
	return r, nil
}

// printPolicy prints p with one more release, if it is a policy that would be taken.
func (o *options) printPolicy(p attest.Policy, r attest.Release) error {
	p.Version, p.Issued = 1, time.Now().UTC().Truncate(time.Second)
	p.Releases = append(slices.DeleteFunc(p.Releases, func(old attest.Release) bool { return old.Name() == r.Name() }), r)
	data, err := json.Marshal(p)
	if err == nil {
		_, err = attest.ParsePolicy(data)
	}
	if err != nil {
		return err
	}
	return o.printJSON(p)
}
