package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent/local"
)

func statusVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show what the agent is, does and waits for",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.ask(cmd.Context(), false)
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(s)
			}
			printStatus(o.stdout, s)
			return nil
		},
	}
}

func printStatus(w io.Writer, s local.Status) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("device", "%s (%s), fleet %s", s.Device, s.Model, s.Fleet)
	row("agent", "%s, %s", s.Software, s.Phase)
	if s.SoftwareKeys {
		row("keys", "software keys: there is no TPM, so nothing proves the boot, and nothing can be sealed")
	}
	if s.Problem != "" {
		row("problem", "%s", strings.ReplaceAll(s.Problem, "\n", "; "))
	}
	if s.Link.Connected {
		row("broker", "connected to %s as %s since %s", s.Link.Broker, s.Link.Identity, clockTime(s.Link.Since))
	} else {
		row("broker", "not connected; %s", orElse(s.Link.LastError, "no attempt yet"))
	}
	row("outbox", "%d waiting, %d lost to a full outbox", s.Outbox.Pending, s.Outbox.Dropped)
	if c := s.Certificate; c != nil {
		row("certificate", "%s until %s, renewed from %s", c.Identity, clockTime(c.NotAfter), clockTime(c.RenewAt))
	} else {
		row("certificate", "none yet")
	}
	row("health", "%s", s.Health.Grade)
	if s.Verdict != nil {
		row("verdict", "%s", firstLine(s.Verdict.Explanation))
	} else {
		row("verdict", "none yet")
	}
	if s.Locked {
		row("secrets", "shut until the next boot: the device was put into quarantine")
	}
	if !s.TimeTrusted {
		row("time", "not trusted: no time source has set the clock since boot; commands need the device's challenge")
	}
}

func clockTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func firstLine(lines []string) string {
	if len(lines) == 0 {
		return "without explanation"
	}
	return lines[0]
}
