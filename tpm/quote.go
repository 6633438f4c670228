package tpm

import (
	"context"
	"errors"
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
	if err := t.checkStatement(ak, qualifying); err != nil {
		return nil, nil, fmt.Errorf("quote PCRs: %w", err)
	}
	var a, s []byte
	err = t.do(ctx, "quote PCRs", func(o *op) error {
		handle, err := o.useKey(ak)
		if err != nil {
			return err
		}
		rsp, err := tpm2.Quote{
			SignHandle:     password(handle),
			QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      selection,
		}.Execute(o)
		if err != nil {
			return err
		}
		a, s = rsp.Quoted.Bytes(), tpm2.Marshal(rsp.Signature)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return a, s, nil
}

// Certify has the AK state that key is in the same chip, with its Name. Results:
// TPMS_ATTEST and TPMT_SIGNATURE (TPM 2.0 Part 3, 18.2).
func (t *TPM) Certify(ctx context.Context, ak, key *Key, qualifying []byte) (info, sig []byte, err error) {
	if err := t.checkStatement(ak, qualifying); err != nil {
		return nil, nil, fmt.Errorf("certify key: %w", err)
	}
	if key == nil || key.t != t {
		return nil, nil, errors.New("certify key: it belongs to another connection")
	}
	var a, s []byte
	err = t.do(ctx, "certify key", func(o *op) error {
		signer, err := o.useKey(ak)
		if err != nil {
			return err
		}
		object, err := o.useKey(key)
		if err != nil {
			return err
		}
		rsp, err := tpm2.Certify{
			ObjectHandle:   password(object),
			SignHandle:     password(signer),
			QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(o)
		if err != nil {
			return err
		}
		a, s = rsp.CertifyInfo.Bytes(), tpm2.Marshal(rsp.Signature)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return a, s, nil
}

func (t *TPM) checkStatement(ak *Key, qualifying []byte) error {
	if ak == nil || ak.t != t || ak.role != AK {
		return errors.New("needs an attestation key of this connection")
	}
	if len(qualifying) > maxQualifying {
		return fmt.Errorf("qualifying data of %d bytes, more than %d", len(qualifying), maxQualifying)
	}
	return nil
}
