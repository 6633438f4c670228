package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/internal/cli"
)

// maxInput is the most that is read of a file, in bytes; what it holds has limits
// of its own.
const maxInput = 16 << 20

func policyVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "make, read and try attestation policies", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(policyCheck(o), policyExplain(o), policyTest(o), policyLearn(o))
	return cmd
}

func readInput(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read-only: nothing to lose
	data, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	if err == nil && len(data) > maxInput {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxInput)
	}
	return data, err
}

func policyCheck(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "say whether a policy would be taken, and what in it has no effect any more",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := fleet.ReadPolicy(args[0])
			if err != nil {
				return err
			}
			stale := []string{}
			for _, e := range p.Exceptions {
				if !time.Now().Before(e.Expires) {
					stale = append(stale, fmt.Sprintf("the exception of %s ended on %s: remove it", e.Rule, e.Expires.UTC().Format(time.DateOnly)))
				}
			}
			if o.json {
				return o.printJSON(map[string]any{"fleet": p.Fleet, "issued": p.Issued, "releases": len(p.Releases), "files": p.Files(), "notes": stale})
			}
			for _, note := range stale {
				fmt.Fprintln(o.stdout, "note: "+note)
			}
			files := ""
			if p.IMA != nil {
				files = fmt.Sprintf(", %d files of %d lists and %d keys", p.Files(), len(p.IMA.Lists), len(p.IMA.Keys))
			}
			fmt.Fprintf(o.stdout, "%s: good, for the fleet %s, %d releases%s\n", args[0], p.Fleet, len(p.Releases), files)
			return nil
		},
	}
}

func policyExplain(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "explain FILE",
		Short: "tell a policy in words: what is good, what each rule demands and costs, what is excepted",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := fleet.ReadPolicy(args[0])
			if err != nil {
				return err
			}
			return o.printLines(p.Describe(time.Now()))
		},
	}
}

// printLines prints sentences, in JSON as a list.
func (o *options) printLines(lines []string) error {
	if o.json {
		return o.printJSON(lines)
	}
	for _, line := range lines {
		fmt.Fprintln(o.stdout, line)
	}
	return nil
}

// trial is how one gateway would be judged.
type trial struct {
	Device      string             `json:"device"`
	Grade       attest.Grade       `json:"grade"`
	Explanation []string           `json:"explanation"`
	Amendments  []attest.Amendment `json:"amendments"`
}

func policyTest(o *options) *cobra.Command {
	var want string
	cmd := &cobra.Command{
		Use:   "test FILE EVIDENCE...",
		Short: "judge recorded evidence by a policy that is not in force",
		Long: `Judge recorded evidence by a policy that is not in force. EVIDENCE is what
gatewarden-fleet devices evidence DEVICE prints. Without --ima there it holds no IMA
list, and the rules about files are not tried.

Exit codes: 0 judged, and with --want of that grade; 1 the evidence can't be read or
proves nothing, or some gateway would get another grade than --want; 2 wrong command
line.`,
		Example: `  gatewarden-fleet devices evidence gw-g275dqr2f7j5lx2n > evidence.json
  gatewarden-fleet policy test next.json evidence.json --want trusted`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if !slices.Contains([]attest.Grade{"", attest.Trusted, attest.Degraded, attest.Untrusted}, attest.Grade(want)) {
				return cli.NewUsageError(fmt.Errorf("--want is %q, not trusted, degraded or untrusted", want))
			}
			p, err := fleet.ReadPolicy(args[0])
			if err != nil {
				return err
			}
			trials := []trial{}
			for _, path := range args[1:] {
				one, err := try(p, path)
				if err != nil {
					return err
				}
				trials = append(trials, one)
			}
			return o.reportTrials(trials, want)
		},
	}
	cmd.Flags().StringVar(&want, "want", "", "fail unless every verdict has this `GRADE`: trusted, degraded, untrusted")
	return cmd
}

func try(p *attest.Policy, path string) (trial, error) {
	data, err := readInput(path)
	if err != nil {
		return trial{}, err
	}
	record, err := attest.ParseRecorded(data)
	if err != nil {
		return trial{}, fmt.Errorf("%s: %w\nhint: gatewarden-fleet devices evidence DEVICE prints it", path, err)
	}
	r, err := record.Judge(p, time.Now())
	if err != nil {
		return trial{}, fmt.Errorf("%s: %w", path, err)
	}
	return trial{record.Device, r.Grade(), r.Explanation(), append([]attest.Amendment{}, r.Amendments()...)}, nil
}

func (o *options) reportTrials(trials []trial, want string) error {
	if o.json {
		if err := o.printJSON(trials); err != nil {
			return err
		}
	}
	others := 0
	for _, t := range trials {
		if want != "" && string(t.Grade) != want {
			others++
		}
		if o.json {
			continue
		}
		fmt.Fprintln(o.stdout, t.Device)
		for _, line := range t.Explanation {
			fmt.Fprintln(o.stdout, "  "+line)
		}
	}
	if others > 0 {
		return fmt.Errorf("%d of %d gateways would not be %s", others, len(trials), want)
	}
	return nil
}
