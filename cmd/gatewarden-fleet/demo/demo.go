// Package demo runs the life of two gateways in a minute: a real fleet server, a
// real TPM emulator for each gateway, the real agent and helper as processes.
//
// Its promise: a tick means that the step was seen to hold. Nothing is faked but the
// machine below the agent: the firmware's measuring, done from a recorded event log,
// and the boot loader, whose choice is a file.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Config of a run. Out and Gatewarden are required.
type Config struct {
	Out        io.Writer
	Gatewarden string // the device binary
	Once       bool   // end after the steps instead of keeping the dashboard open
	Keep       string // folder to leave all state in; "" uses a temporary one
	Seed       uint64 // draws the moments of the power cuts
	Dashboard  string // address of the dashboard; port 0 picks a free one
}

// stepLimit is what one step may take before it counts as failed: several times
// what the slowest takes on two idle cores.
const stepLimit = 4 * time.Minute

// step is one line of the demo. run returns the sentences to print below it.
type step struct {
	title string
	run   func(ctx context.Context, w *world) ([]string, error)
}

// steps is the life of a gateway, in order.
func steps() []step {
	return []step{
		{"enrol: the TPM proves the device, an operator approves it, EST certifies its key", enrol},
		{"connect: TLS 1.3 to the broker with a key that never leaves the TPM", connect},
		{"attest: the TPM signs how the gateway booted, the fleet replays and judges it", attested},
		{"rotate: a new key and certificate while messages flow", rotate},
		{"command: the gateway obeys what operators signed, and nothing else", obey},
		{"tamper: gateway 2 boots with an altered kernel command line, and heals", tamper},
		{"power: agent, helper and TPM are killed at random moments", powerCuts},
		{"seal: a secret opens in boots that the owner signed, and in no other", sealed},
		{"update: a signed release travels from image to running slot, and the secret follows", updated},
		{"refuse: a release that does not work is left again, one that is not signed for this gateway never gets in", refused},
		{"power in the update: it goes in download, write, trial and commit", updateCuts},
	}
}

// Run runs the demo. The error names the step that did not hold.
func Run(ctx context.Context, c Config) (err error) {
	dir, remove, err := folder(c.Keep)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "Gatewarden demo: one fleet server and two gateways, each with a TPM of its own (swtpm).\n"+
		"Fleet, TPMs, agents and helpers are real; firmware and boot loader are played, the firmware from a recording.\n"+
		"state: %s   seed: %d\n\n", dir, c.Seed)
	w, err := newWorld(ctx, c, dir)
	if err != nil {
		remove()
		return err
	}
	defer func() {
		err = errors.Join(err, w.close())
		if err == nil || c.Keep == "" && ctx.Err() != nil {
			remove()
		} else {
			fmt.Fprintf(c.Out, "state and logs are left in %s\n", dir)
		}
	}()
	fmt.Fprintf(c.Out, "dashboard: %s\n\n", w.dashboard())
	if err := runSteps(ctx, c.Out, w); err != nil {
		return err
	}
	if c.Once {
		return nil
	}
	fmt.Fprintf(c.Out, "\nThe gateways go on running. Dashboard: %s   (Ctrl-C ends the demo)\n", w.dashboard())
	<-ctx.Done()
	return nil
}

func runSteps(ctx context.Context, out io.Writer, w *world) error {
	start := time.Now()
	list := steps()
	for i, s := range list {
		began := time.Now()
		lines, err := runStep(ctx, s, w)
		mark := "✓"
		if err != nil {
			mark = "✗"
		}
		fmt.Fprintf(out, "%s %d. %s  [%.1f s]\n", mark, i+1, s.title, time.Since(began).Seconds())
		for _, line := range lines {
			fmt.Fprintf(out, "     %s\n", line)
		}
		if err != nil {
			return fmt.Errorf("step %d (%s) did not hold: %w", i+1, strings.Split(s.title, ":")[0], err)
		}
	}
	fmt.Fprintf(out, "\nAll %d steps held in %.0f s.\n", len(list), time.Since(start).Seconds())
	return nil
}

func runStep(ctx context.Context, s step, w *world) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	lines, err := s.run(ctx, w)
	if err == nil {
		err = w.failed() // a part that ended by itself fails the step it ended in
	}
	return lines, err
}

// folder makes the folder for all state; remove deletes it unless it is kept.
func folder(keep string) (dir string, remove func(), err error) {
	if keep == "" {
		if dir, err = os.MkdirTemp("", "gatewarden-demo-"); err != nil {
			return "", nil, fmt.Errorf("make demo folder: %w", err)
		}
		return dir, func() { os.RemoveAll(dir) }, nil
	}
	if dir, err = filepath.Abs(keep); err != nil {
		return "", nil, err
	}
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make demo folder: %w", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return "", nil, fmt.Errorf("%s is not an empty folder: give --keep a new one", dir)
	}
	return dir, func() {}, nil
}

// fatal marks an error that waiting does not mend.
type fatal struct{ error }

// await polls until check says so or fails for good, or ctx ends; what names it in
// the error, with the last reason that check gave.
func await(ctx context.Context, what string, check func() (bool, error)) error {
	ticker := time.NewTicker(40 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, err := check()
		var end fatal
		if ok || errors.As(err, &end) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited in vain until %s", what), err)
		case <-ticker.C:
		}
	}
}

// source makes the random source of the power cuts.
func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }
