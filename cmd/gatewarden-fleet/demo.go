package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/cmd/gatewarden-fleet/demo"
)

func demoVerb(o *options) *cobra.Command {
	c := demo.Config{Out: o.stdout}
	var seed uint64
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "run the life of two gateways on this machine",
		Long: `Run a fleet server and two gateways, each with an emulated TPM of its own, through
the life of a gateway; then keep the dashboard open until Ctrl-C.

Exit codes: 0 every step held, 1 a step did not hold (stderr names it).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Seed = seed; seed == 0 {
				c.Seed = uint64(time.Now().UnixNano()) % 1_000_000
			}
			if c.Gatewarden == "" {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("find the gatewarden binary: %w", err)
				}
				c.Gatewarden = filepath.Join(filepath.Dir(self), "gatewarden")
			}
			if _, err := os.Stat(c.Gatewarden); err != nil {
				return fmt.Errorf("find the device binary: %w\nhint: `make build` makes both, or name it with --gatewarden", err)
			}
			return demo.Run(cmd.Context(), c)
		},
	}
	cmd.Flags().BoolVar(&c.Once, "once", false, "end after the steps")
	cmd.Flags().StringVar(&c.Keep, "keep", "", "leave all state in this new `FOLDER`")
	cmd.Flags().Uint64Var(&seed, "seed", 0, "draw the moments of the power cuts from this `NUMBER` (default: another one each time)")
	cmd.Flags().StringVar(&c.Dashboard, "dashboard", "127.0.0.1:0", "`ADDRESS` of the dashboard; port 0 takes a free one")
	cmd.Flags().StringVar(&c.Gatewarden, "gatewarden", "", "the device `BINARY` (default: beside this one)")
	return cmd
}
