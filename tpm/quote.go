package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Quote has the AK sign the present values of PCRs (SHA-256 bank) together with
// qualifying data (at most 34 bytes on chips that know SHA-256 only). It sends one
// TPM command. Results: TPMS_ATTEST and TPMT_SIGNATURE (TPM 2.0 Part 3, 18.4).
func (t *TPM) Quote(ctx context.Context, ak *Key, qualifying []byte, pcrs []int) (quote, sig []byte, err error) {
	selection, err := selectPCRs(pcrs)
	if err != nil {
		return nil, nil, fmt.Errorf("quote PCRs: %w", err)
	}
	// One bank, SHA-256, three bytes.
	list := append([]byte{0, 0, 0, 1, 0, 0x0b, 3}, selection.PCRSelections[0].PCRSelect...)
	return t.state(ctx, "quote PCRs", tpm2.TPMCCQuote, qualifying, list, 0, ak)
}

// Certify has the AK state that key is in the same chip, with its Name. Results:
// TPMS_ATTEST and TPMT_SIGNATURE (TPM 2.0 Part 3, 18.2).
func (t *TPM) Certify(ctx context.Context, ak, key *Key, qualifying []byte) (info, sig []byte, err error) {
	return t.state(ctx, "certify key", tpm2.TPMCCCertify, qualifying, nil, 0, key, ak)
}

// CertifyBy is Certify by an attestation key of somebody else at a persistent handle,
// usable with an empty password: see package devid.
func (t *TPM) CertifyBy(ctx context.Context, handle uint32, key *Key, qualifying []byte) (info, sig []byte, err error) {
	return t.state(ctx, "certify key", tpm2.TPMCCCertify, qualifying, nil, tpm2.TPMHandle(handle), key)
}

// state runs a command that states something, signed by the key at a persistent handle
// or, where that is 0, by the last of keys, which is an AK.
func (t *TPM) state(ctx context.Context, what string, code tpm2.TPMCC, qualifying, more []byte, signer tpm2.TPMHandle, keys ...*Key) (attest, sig []byte, err error) {
	for _, key := range keys {
		if key == nil || key.t != t {
			return nil, nil, fmt.Errorf("%s: needs keys of this connection", what)
		}
	}
	if signer == 0 && keys[len(keys)-1].role != AK {
		return nil, nil, fmt.Errorf("%s: needs an attestation key to sign", what)
	}
	if len(qualifying) > maxQualifying {
		return nil, nil, fmt.Errorf("%s: qualifying data of %d bytes, more than %d", what, len(qualifying), maxQualifying)
	}
	var a, s []byte
	err = t.Do(ctx, what, func(c *Chip) error {
		var handles []tpm2.NamedHandle
		for _, key := range keys {
			handle, err := key.use(c)
			if err != nil {
				return err
			}
			handles = append(handles, handle)
		}
		run := func() error {
			// Scheme TPM_ALG_NULL: the key's own.
			answer, err := direct(c, code, append(append(sized(qualifying), 0, 0x10), more...), handles...)
			if err == nil {
				a, s, err = statement(answer)
			}
			return err
		}
		if signer == 0 {
			return run()
		}
		handles = append(handles, tpm2.NamedHandle{Handle: signer})
		return c.Room(run) // chips load a copy of a persistent key
	})
	if err != nil {
		return nil, nil, err
	}
	return a, s, nil
}
