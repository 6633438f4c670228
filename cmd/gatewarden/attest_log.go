package main

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/cli"
)

const (
	bootLog     = "/sys/kernel/security/tpm0/binary_bios_measurements"
	tpmRegister = "/sys/class/tpm/tpm0" // pcr-sha256/0 and so on
	maxBootLog  = 512 << 10             // bytes
)

func attestLog(o *options) *cobra.Command {
	var pcrs string
	cmd := &cobra.Command{
		Use:   "log [FILE]",
		Short: "print this boot's event log, and say whether it replays to the TPM's PCRs",
		Long: `Print an event log, by default that of this boot, and say whether it replays to
the PCRs of the TPM. A text in brackets is covered by no digest: it is what the log
says, not what was measured. Nothing here proves a boot to others; the fleet's
verdict does.

Exit codes: 0 it replays (or there was nothing to compare it with), 1 it could not
be read, 4 it does not replay.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := bootLog
			if len(args) == 1 {
				path = args[0]
			}
			view, err := readBootLog(path, pcrs)
			if err != nil {
				return err
			}
			if o.json {
				err = o.printJSON(view)
			} else {
				view.print(o)
			}
			if err == nil && !view.Replays && len(view.Compared) > 0 {
				err = cli.Exit(exitCritical)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&pcrs, "pcrs", "", "compare with the PCRs in `FILE`, as tpm2_pcrread prints them, not with this machine's")
	return cmd
}

// logView is an event log as people and programs see it.
type logView struct {
	Path     string              `json:"path"`
	Format   string              `json:"format"`
	Bank     string              `json:"bank"` // that is compared
	Events   []eventView         `json:"events"`
	Compared []attest.Comparison `json:"compared,omitempty"`
	Replays  bool                `json:"replays"`
}

type eventView struct {
	Event   int    `json:"event"`
	PCR     int    `json:"pcr"`
	Type    string `json:"type"`
	Digest  string `json:"digest,omitempty"`
	Text    string `json:"text,omitempty"`
	Covered bool   `json:"covered"` // the digest is that of what Text says
}

// readBootLog compares with the PCRs in a file, or, where the log is this machine's,
// with those of its TPM.
func readBootLog(path, pcrs string) (*logView, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("read event log: %w\nhint: only root may read it", err)
	}
	if err != nil && path != bootLog {
		return nil, fmt.Errorf("read event log: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read event log: %w\nhint: a machine without TPM, or whose firmware hands over no log, has none", err)
	}
	log, err := attest.ParseEventLog(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	bank := attest.AlgSHA256
	if _, err := log.ReplayBank(bank); err != nil {
		bank = attest.AlgSHA1
	}
	view := &logView{Path: path, Format: log.Format, Bank: bank.String()}
	for i := range log.Events {
		view.add(&log.Events[i], bank)
	}
	held := map[int][]byte{}
	switch {
	case pcrs != "":
		held, err = pcrsOfFile(pcrs, bank.String())
	case path == bootLog:
		held, err = pcrsOfMachine(tpmRegister, bank.String())
	}
	if err != nil {
		return nil, err
	}
	return view, view.compare(log, bank, held)
}

func (v *logView) add(e *attest.LogEvent, bank attest.Algorithm) {
	one := eventView{Event: e.Index, PCR: e.PCR, Type: e.Type.String()}
	one.Text, one.Covered = e.Describe()
	if e.Extends() {
		one.Digest = hex.EncodeToString(e.DigestIn(bank))
	}
	v.Events = append(v.Events, one)
}

func (v *logView) compare(log *attest.EventLog, bank attest.Algorithm, held map[int][]byte) (err error) {
	if len(held) == 0 {
		return nil
	}
	if v.Compared, err = log.Compare(bank, held); err != nil {
		return err
	}
	v.Replays = true
	for _, c := range v.Compared {
		v.Replays = v.Replays && c.OK
	}
	return nil
}

// pcrsOfMachine reads what the kernel shows of the TPM, which needs no TPM command.
func pcrsOfMachine(folder, bank string) (map[int][]byte, error) {
	pcrs := make(map[int][]byte)
	for _, pcr := range attest.Selection() {
		text, err := os.ReadFile(filepath.Join(folder, "pcr-"+bank, strconv.Itoa(pcr)))
		if err != nil {
			return nil, fmt.Errorf("read PCR: %w\nhint: --pcrs FILE takes what `tpm2_pcrread %s` prints, where the kernel (before 5.12) does not show them", err, bank)
		}
		if pcrs[pcr], err = hex.DecodeString(strings.TrimSpace(string(text))); err != nil {
			return nil, fmt.Errorf("read PCR %d: %w", pcr, err)
		}
	}
	return pcrs, nil
}

// pcrsOfFile reads `  sha256:` and below it `    0 : 0x17E2...`.
func pcrsOfFile(path, bank string) (map[int][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read PCRs: %w", err)
	}
	defer file.Close()
	pcrs := make(map[int][]byte)
	within := false
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		name, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		value = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(value)), "0x")
		if value == "" {
			within = name == bank
			continue
		}
		pcr, err := strconv.Atoi(strings.TrimSpace(name))
		if !within || err != nil {
			continue
		}
		if pcrs[pcr], err = hex.DecodeString(value); err != nil {
			return nil, fmt.Errorf("%s: PCR %d: %w", path, pcr, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read PCRs: %w", err)
	}
	if len(pcrs) == 0 {
		return nil, fmt.Errorf("%s has no PCR of bank %s\nhint: it takes what `tpm2_pcrread %s` prints", path, bank, bank)
	}
	return pcrs, nil
}

func (v *logView) print(o *options) {
	const row = "%5d  %3d  %-31s %.8s  %s\n"
	fmt.Fprintf(o.stdout, "EVENT  PCR  %-31s DIGEST    WHAT\n", "TYPE")
	for _, e := range v.Events {
		text := e.Text
		if !e.Covered && text != "" {
			text = "[" + text + "]"
		}
		fmt.Fprintf(o.stdout, row, e.Event, e.PCR, strings.TrimPrefix(e.Type, "EV_"), cmp.Or(e.Digest, "-       "), text)
	}
	fmt.Fprintf(o.stdout, "\n%s log of %d events\n", v.Format, len(v.Events))
	v.printReplay(o)
}

func (v *logView) printReplay(o *options) {
	if len(v.Compared) == 0 {
		fmt.Fprintf(o.stdout, "not compared with a TPM: --pcrs FILE names what `tpm2_pcrread %s` printed\n", v.Bank)
		return
	}
	var alike []string
	for _, c := range v.Compared {
		if !c.OK {
			fmt.Fprintf(o.stdout, "PCR %d does NOT replay: the log gives %x, the TPM holds %x\n", c.PCR, c.Logged, c.Held)
			continue
		}
		text := strconv.Itoa(c.PCR)
		if len(c.Phases) > 0 {
			text += " (and the boot phases " + strings.Join(c.Phases, ", ") + ")"
		}
		alike = append(alike, text)
	}
	if v.Replays {
		fmt.Fprintf(o.stdout, "the log replays to the TPM's PCRs %s, bank %s\n", strings.Join(alike, ", "), v.Bank)
	}
}
