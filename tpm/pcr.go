package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm/core"
)

// selectPCRs makes a selection in the SHA-256 bank.
func selectPCRs(pcrs []int) (tpm2.TPMLPCRSelection, error) {
	if len(pcrs) == 0 {
		return tpm2.TPMLPCRSelection{}, errors.New("no PCR named")
	}
	list := make([]uint, 0, len(pcrs))
	for _, pcr := range pcrs {
		if pcr < 0 || pcr > maxPCR {
			return tpm2.TPMLPCRSelection{}, fmt.Errorf("no PCR %d", pcr)
		}
		list = append(list, uint(pcr))
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(list...)},
	}}, nil
}

// ReadPCRs reads PCRs of the SHA-256 bank. A chip gives up to eight per command.
func (t *TPM) ReadPCRs(ctx context.Context, pcrs []int) (map[int][32]byte, error) {
	if _, err := selectPCRs(pcrs); err != nil {
		return nil, fmt.Errorf("read PCRs: %w", err)
	}
	var values map[int][32]byte
	err := t.Do(ctx, "read PCRs", func(c *Chip) (err error) {
		values, err = PCRs(c, pcrs)
		return err
	})
	if err != nil {
		return nil, err
	}
	return values, nil
}

// PCRs is ReadPCRs within an operation.
func PCRs(c *Chip, pcrs []int) (map[int][32]byte, error) {
	values := make(map[int][32]byte, len(pcrs))
	for {
		var missing []int
		for _, pcr := range pcrs {
			if _, ok := values[pcr]; !ok {
				missing = append(missing, pcr)
			}
		}
		if len(missing) == 0 {
			return values, nil
		}
		before := len(values)
		if err := readSome(c, missing, values); err != nil {
			return nil, err
		}
		if len(values) == before {
			return nil, core.Classify(ErrDamaged, "is the SHA-256 bank switched off in the firmware setup?",
				fmt.Errorf("the chip gives no value for PCR %d", missing[0]))
		}
	}
}

// readSome adds those of the wanted values that one command gives.
func readSome(c *Chip, wanted []int, values map[int][32]byte) error {
	selection, err := selectPCRs(wanted)
	if err != nil {
		return err
	}
	rsp, err := tpm2.PCRRead{PCRSelectionIn: selection}.Execute(c)
	if err != nil {
		return err
	}
	digests := rsp.PCRValues.Digests
	for _, sel := range rsp.PCRSelectionOut.PCRSelections {
		if sel.Hash != tpm2.TPMAlgSHA256 {
			return errors.New("PCR values of another bank than asked for")
		}
		for pcr := 0; pcr < 8*len(sel.PCRSelect) && pcr <= maxPCR; pcr++ {
			if sel.PCRSelect[pcr/8]&(1<<(pcr%8)) == 0 {
				continue
			}
			if len(digests) == 0 || len(digests[0].Buffer) != 32 {
				return errors.New("PCR values do not fit their selection")
			}
			values[pcr] = [32]byte(digests[0].Buffer)
			digests = digests[1:]
		}
	}
	return nil
}

// Extend extends one PCR of the SHA-256 bank.
func (t *TPM) Extend(ctx context.Context, pcr int, digest [32]byte) error {
	if pcr < 0 || pcr > maxPCR {
		return fmt.Errorf("extend PCR: no PCR %d", pcr)
	}
	return t.Do(ctx, "extend PCR", func(c *Chip) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
				{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]},
			}},
		}.Execute(c)
		return err
	})
}
