package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/cli"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update"
)

// Exit codes of update; see its help.
const (
	exitAvailable = 3 // check: there is a release to install; status: an update is under way; confirmed: it is on trial
	exitNotMade   = 4 // status, apply --wait: the last update failed, was refused or was rolled back
)

// waitLook is how often apply --wait asks.
const waitLook = time.Second

func updateVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update",
		Short: "show and steer how this gateway takes in releases",
		Long: `Show and steer how this gateway takes in releases. The agent fetches what its
owner signed, the helper verifies and writes it to the spare slot, boots it once on
trial, and keeps it if the gateway does as well as before.

Exit codes: 0 done or up to date; 1 the agent or the repository could not be asked;
3 check: there is a release to install, status: an update is under way, confirmed:
what runs is on trial; 4 the last update failed, was refused or was rolled back.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.NewUsageError(fmt.Errorf("update has no verb %q", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(updateStatusVerb(o), updateCheckVerb(o), updateApplyVerb(o), updateConfirmedVerb(o), updateHistoryVerb(o))
	return cmd
}

func updateStatusVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show what the update engine does and how the last update ended",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			s, err := local.UpdateStatus(cmd.Context(), socket)
			if err != nil {
				return err
			}
			if err := o.print(s, func(w io.Writer) { printUpdate(w, s) }); err != nil {
				return err
			}
			return updateExit(s)
		},
	}
}

func updateCheckVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "look at the repository now; install nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			f, err := local.UpdateCheck(cmd.Context(), socket)
			if err != nil {
				return err
			}
			if err := o.print(f, func(w io.Writer) { printFound(w, f) }); err != nil {
				return err
			}
			switch {
			case f.Refused != "":
				return cli.Exit(exitNotMade)
			case f.Release != "":
				return cli.Exit(exitAvailable)
			}
			return nil
		},
	}
}

func updateApplyVerb(o *options) *cobra.Command {
	var budget int64
	var wait bool
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "install what there is now, also what failed before (root)",
		Long: `Have the agent install the latest release now, also one that failed before. With
--wait it returns when the update ended or the gateway goes down for the trial boot.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if budget < 0 {
				return cli.NewUsageError(fmt.Errorf("--budget is %d, it must be a number of bytes", budget))
			}
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			s, err := local.UpdateApply(cmd.Context(), socket, budget)
			if err == nil && wait {
				s, err = waitUpdate(cmd.Context(), socket, s)
			}
			if err != nil {
				return err
			}
			if err := o.print(s, func(w io.Writer) { printUpdate(w, s) }); err != nil || !wait {
				return err
			}
			return updateExit(s)
		},
	}
	cmd.Flags().Int64Var(&budget, "budget", 0, "let this update fetch up to `BYTES`, if that is more than configured")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it ended")
	return cmd
}

// waitUpdate asks until the engine has answered and is idle again, or the machine
// goes down for the trial.
func waitUpdate(ctx context.Context, socket string, s update.Status) (update.Status, error) {
	for s.Asked || s.Now != nil && s.State != update.Trying {
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(waitLook):
		}
		var err error
		if s, err = local.UpdateStatus(ctx, socket); err != nil {
			return s, err
		}
	}
	return s, nil
}

func updateConfirmedVerb(o *options) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "confirmed",
		Short: "say whether the release that runs is here to stay",
		Long: `Say whether the release that runs is here to stay, or on trial: then the next boot
leaves it. With --wait it returns once the release was confirmed, however long that
takes, also if the agent has not started yet. gatewarden-confirm.service does this,
so that boot-complete.target is not reached before.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			confirmed, err := local.UpdateConfirmed(cmd.Context(), socket)
			for wait && !confirmed && cmd.Context().Err() == nil {
				select {
				case <-cmd.Context().Done():
				case <-time.After(waitLook):
					confirmed, err = local.UpdateConfirmed(cmd.Context(), socket)
				}
			}
			if err != nil {
				return err
			}
			text := "the release that runs is here to stay"
			if !confirmed {
				text = "the release that runs is on trial"
			}
			if err := o.print(local.Confirmed{Confirmed: confirmed}, func(w io.Writer) { fmt.Fprintln(w, text) }); err != nil || confirmed {
				return err
			}
			return cli.Exit(exitAvailable)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is")
	return cmd
}

func updateHistoryVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "list how updates ended, the last one first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			h, err := local.UpdateHistory(cmd.Context(), socket)
			if err != nil {
				return err
			}
			return o.print(h, func(w io.Writer) {
				if len(h) == 0 {
					fmt.Fprintln(w, "there was no update yet")
				}
				for _, u := range h {
					fmt.Fprintf(w, "%s  %s\n", clockTime(u.Ended), sentence(u))
				}
			})
		},
	}
}

// socketPath is where the agent listens; one on the command line needs no
// configuration.
func (o *options) socketPath() (string, error) {
	if o.socket != "" {
		return o.socket, nil
	}
	s, err := agent.LoadSettings(o.config)
	return s.Socket, err
}

func (o *options) print(v any, human func(io.Writer)) error {
	if o.json {
		return o.printJSON(v)
	}
	human(o.stdout)
	return nil
}

func printUpdate(w io.Writer, s update.Status) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	switch {
	case s.Now != nil:
		row("state", "%s: release %s over %s", s.State, s.Now.Release, orElse(s.Now.From, "?"))
		row("fetched", "%d of at most %d bytes, %d chunks", s.Now.Fetched, s.Budget, s.Now.Chunks)
	case s.Auto:
		row("state", "%s; next look in %s", s.State, s.Next.Round(time.Second))
	default:
		row("state", "%s; installs only when told to (`update.auto` is off)", s.State)
	}
	if p := s.Progress; p != nil {
		row("progress", "%s: %d of %d missing chunks (the image has %d)", p.Image, p.Fetched, p.Missing, p.Chunks)
	}
	if s.Problem != "" {
		row("problem", "%s", s.Problem)
	}
	if s.Last != nil {
		row("last", "%s: %s", clockTime(s.Last.Ended), sentence(*s.Last))
	}
	for _, b := range s.Blocked {
		row("blocked", "%s (rule %s); `gatewarden update apply` tries it again", b.Target, b.Rule)
	}
}

// sentence says what became of an update.
func sentence(u wire.Update) string {
	release := "release " + u.Release
	if u.Release == "" {
		release = "what the repository offers"
	}
	switch u.Outcome {
	case wire.UpdateInstalled:
		text := fmt.Sprintf("%s installed over %s, %d bytes fetched", release, u.From, u.Fetched)
		if u.Pending {
			text += "; it was kept before the fleet could judge it"
		}
		return text
	case wire.UpdateRolledBack:
		return fmt.Sprintf("%s ROLLED BACK to %s (%s): %s", release, u.From, u.Rule, u.Text)
	case wire.UpdateRefused:
		return fmt.Sprintf("%s refused (%s): %s", release, u.Rule, u.Text)
	}
	return fmt.Sprintf("%s %s (%s): %s", release, u.Outcome, u.Rule, u.Text)
}

func printFound(w io.Writer, f update.Found) {
	switch {
	case f.Job != nil:
		fmt.Fprintf(w, "an update to %s is under way: %s\n", f.Release, f.Job.State)
	case f.Release == "":
		fmt.Fprintf(w, "up to date: %s runs and the repository has nothing above it\n", f.Running)
	case f.Refused != "":
		fmt.Fprintf(w, "release %s is above the running %s, but: %s\n", f.Release, f.Running, f.Refused)
	default:
		fmt.Fprintf(w, "release %s (security epoch %d) can be installed over %s\n", f.Release, f.Epoch, f.Running)
		if f.Blocked {
			fmt.Fprintln(w, "it failed before, so only `gatewarden update apply` installs it")
		}
		if f.Notes != "" {
			fmt.Fprintln(w, f.Notes)
		}
	}
}

func updateExit(s update.Status) error {
	switch {
	case s.Now != nil:
		return cli.Exit(exitAvailable)
	case s.Last != nil && s.Last.Outcome != wire.UpdateInstalled:
		return cli.Exit(exitNotMade)
	}
	return nil
}
