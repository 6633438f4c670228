package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/gotpm"
	"github.com/gatewarden/gatewarden/internal/cli"
)

// Exit codes of verify beside those of package cli.
const (
	exitDegraded  = 3
	exitUntrusted = 4
)

// verification is what verify prints as JSON.
type verification struct {
	Form        string              `json:"form"` // of the evidence
	Grade       attest.Grade        `json:"grade"`
	Explanation []string            `json:"explanation"`
	Rules       []attest.RuleResult `json:"rules"`
	Facts       *attest.Facts       `json:"facts"`
	Notes       []string            `json:"notes"` // what nothing here vouches for
}

func verifyVerb(o *options) *cobra.Command {
	var policy, nonce, model string
	cmd := &cobra.Command{
		Use:   "verify EVIDENCE",
		Short: "judge evidence in a file, off line",
		Long: `Judge evidence in a file by a policy in a file, as the server would, without one.
EVIDENCE is what gatewarden-fleet devices evidence DEVICE prints, or an attestation
of go-tpm-tools (gotpm attest, in its binary form).

A file can't say that it is fresh, nor whose key it is signed by: notes tell what
nothing here vouches for.

Exit codes: 0 trusted, 1 the evidence can't be read or proves nothing, 2 wrong
command line, 3 degraded, 4 untrusted.`,
		Example: "  gatewarden-fleet verify evidence.json --policy policy.json\n" +
			"  gatewarden-fleet verify attestation.pb --policy policy.json --nonce 9009",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			asked, err := hex.DecodeString(nonce)
			if err != nil {
				return cli.NewUsageError(fmt.Errorf("--nonce is not hex: %w", err))
			}
			p, err := fleet.ReadPolicy(policy)
			if err != nil {
				return err
			}
			v, err := verifyFile(args[0], asked, attest.Expect{Policy: p, Model: model, Now: time.Now()})
			if err != nil {
				return err
			}
			return o.printVerification(v)
		},
	}
	cmd.Flags().StringVar(&policy, "policy", "", "judge by the policy in `FILE`")
	cmd.Flags().StringVar(&nonce, "nonce", "", "the nonce that was asked for, in `HEX`")
	cmd.Flags().StringVar(&model, "model", "", "hardware `MODEL` of the machine, for the policy's firmware sets (go-tpm-tools)")
	_ = cmd.MarkFlagRequired("policy") // fails only for a flag that does not exist
	return cmd
}

func verifyFile(path string, nonce []byte, e attest.Expect) (*verification, error) {
	data, err := readInput(path)
	if err != nil {
		return nil, err
	}
	verify := verifyForeign
	if bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		verify = verifyRecorded
	}
	v, err := verify(data, nonce, e)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

func verifyRecorded(data, nonce []byte, e attest.Expect) (*verification, error) {
	record, err := attest.ParseRecorded(data)
	if err != nil {
		return nil, fmt.Errorf("%w\nhint: gatewarden-fleet devices evidence DEVICE prints it", err)
	}
	if len(nonce) > 0 && !bytes.Equal(nonce, record.Evidence.Nonce) {
		return nil, fmt.Errorf("the evidence answers the nonce %x", record.Evidence.Nonce)
	}
	r, err := record.Judge(e.Policy, e.Now)
	if err != nil {
		return nil, err
	}
	return newVerification("gatewarden", r,
		fmt.Sprintf("that %s has the attestation key %s is the record's word", record.Device, keyName(record.AK)),
		fmt.Sprintf("the evidence was fresh on %s, by the record's word", record.At.UTC().Format(time.DateTime))), nil
}

func verifyForeign(data, nonce []byte, e attest.Expect) (*verification, error) {
	f, err := gotpm.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w\nhint: gotpm attest --format binarypb writes it", err)
	}
	notes := []string{fmt.Sprintf("which machine has the attestation key %s nobody says", keyName(f.AK))}
	if len(nonce) == 0 {
		if nonce, err = f.QuotedNonce(); err != nil {
			return nil, err
		}
		notes = append(notes, fmt.Sprintf("the quote may be old: it is over the nonce %x, and --nonce says none", nonce))
	}
	r, err := attest.VerifyForeign(f, nonce, e)
	if err != nil {
		return nil, err
	}
	return newVerification("go-tpm-tools", r, notes...), nil
}

func newVerification(form string, r *attest.Result, notes ...string) *verification {
	return &verification{Form: form, Grade: r.Grade(), Explanation: r.Explanation(), Rules: r.Rules(), Facts: r.Facts(), Notes: notes}
}

// keyName is how notes call a key.
func keyName(ak []byte) string {
	sum := sha256.Sum256(ak)
	return hex.EncodeToString(sum[:8]) + "…"
}

func (o *options) printVerification(v *verification) error {
	if o.json {
		if err := o.printJSON(v); err != nil {
			return err
		}
	} else {
		for _, line := range v.Explanation {
			fmt.Fprintln(o.stdout, line)
		}
		for _, note := range v.Notes {
			fmt.Fprintln(o.stdout, "note: "+note)
		}
	}
	switch v.Grade {
	case attest.Trusted:
		return nil
	case attest.Degraded:
		return cli.Exit(exitDegraded)
	}
	return cli.Exit(exitUntrusted)
}
