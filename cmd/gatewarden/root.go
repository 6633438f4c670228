package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/cli"
	"github.com/gatewarden/gatewarden/internal/policy"
)

// Exit codes beside those of package cli; the help text of each verb lists those that it uses.
const (
	exitWarning   = 3 // health: warning or unknown; attest: degraded
	exitCritical  = 4 // health: critical; attest: untrusted
	exitNoVerdict = 5 // attest: never judged
)

const defaultConfig = "/etc/gatewarden/agent.toml"

// run is the whole program but for process globals.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return cli.Run(ctx, newRoot(stdout, stderr), args, stdout, stderr)
}

// options are the flags that every verb has.
type options struct {
	config string
	socket string
	json   bool
	stdout io.Writer
	stderr io.Writer
}

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	o := &options{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:   "gatewarden",
		Short: "security agent of a Linux gateway",
		Long: `gatewarden proves what this gateway is with its TPM, keeps its certificate
fresh, reports its health and obeys commands that operators signed.

Exit codes: 0 done, 1 could not be done (stderr says why), 2 wrong command line;
attest, doctor, health and update use more, see their help.`,
	}
	root.PersistentFlags().StringVar(&o.config, "config", defaultConfig, "the agent's configuration `FILE`")
	root.PersistentFlags().StringVar(&o.socket, "socket", "", "ask the agent at this `SOCKET` instead of the configured one")
	root.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	root.AddCommand(agentVerb(o), helperVerb(o), statusVerb(o), healthVerb(o), attestVerb(o), certVerb(o), enrollVerb(o), configVerb(o), updateVerb(o),
		sealVerb(o), unsealVerb(o), secretsVerb(o), credentialsVerb(o), tpmVerb(o), doctorVerb(o), versionVerb(o))
	return root
}

// ask gets the agent's status; a socket on the command line needs no configuration.
func (o *options) ask(ctx context.Context, fresh bool) (local.Status, error) {
	if o.socket != "" {
		return local.Get(ctx, o.socket, fresh)
	}
	s, err := o.settings()
	if err != nil {
		return local.Status{}, err
	}
	status, err := local.Get(ctx, s.Socket, fresh)
	if err != nil {
		err = cmp.Or(waiting(s.Trust), err)
	}
	return status, err
}

// waiting says why an installed agent does not run yet, nil if that is not why.
func waiting(trust string) error {
	for _, name := range []string{policy.FleetFile, policy.OperatorsFile} {
		if _, err := os.Stat(filepath.Join(trust, name)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the agent waits for %s in %s\nhint: install the fleet's trust documents there; the agent starts by itself then", name, trust)
		}
	}
	return nil
}

// settings reads the agent's configuration.
func (o *options) settings() (agent.Settings, error) {
	s, err := agent.LoadSettings(o.config)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w\nhint: --config FILE names the configuration; the package brings an example", err)
	}
	return s, err
}

func (o *options) printJSON(v any) error {
	enc := json.NewEncoder(o.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (o *options) logger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(o.stderr, &slog.HandlerOptions{Level: level}))
}
