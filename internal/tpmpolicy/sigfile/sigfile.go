// Package sigfile is the file in which signed PCR policies travel, as systemd has it.
//
// It judges form only: whether a policy was signed, tpmpolicy.Signed.Verify says.
package sigfile

import (
	"encoding/json"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
)

// signatureFile is tpm2-pcr-signature.json (systemd-measure(1)): a list for each
// bank of PCRs. Only the SHA-256 bank counts here.
type signatureFile struct {
	SHA1   json.RawMessage    `json:"sha1,omitempty"`
	SHA256 []tpmpolicy.Signed `json:"sha256"`
	SHA384 json.RawMessage    `json:"sha384,omitempty"`
	SHA512 json.RawMessage    `json:"sha512,omitempty"`
}

// Encode writes a tpm2-pcr-signature.json. It is for signatures without ref:
// systemd takes the first entry whose policy fits, and knows no ref.
func Encode(list []tpmpolicy.Signed) ([]byte, error) {
	if err := checkAll(list); err != nil {
		return nil, fmt.Errorf("encode PCR signatures: %w", err)
	}
	data, err := json.Marshal(signatureFile{SHA256: append([]tpmpolicy.Signed{}, list...)})
	if err != nil {
		return nil, fmt.Errorf("encode PCR signatures: %w", err)
	}
	return append(data, '\n'), nil
}

// Parse reads the SHA-256 entries of a tpm2-pcr-signature.json. They are not
// verified.
func Parse(data []byte) ([]tpmpolicy.Signed, error) {
	if len(data) > tpmpolicy.MaxFile {
		return nil, fmt.Errorf("parse PCR signatures: %d bytes, at most %d are allowed", len(data), tpmpolicy.MaxFile)
	}
	var file signatureFile
	if err := strictjson.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("parse PCR signatures: %w", err)
	}
	if err := checkAll(file.SHA256); err != nil {
		return nil, fmt.Errorf("parse PCR signatures: %w", err)
	}
	return file.SHA256, nil
}

func checkAll(list []tpmpolicy.Signed) error {
	if len(list) > tpmpolicy.MaxSigned {
		return fmt.Errorf("%d policies, at most %d are allowed", len(list), tpmpolicy.MaxSigned)
	}
	for i, s := range list {
		if err := check(s); err != nil {
			return fmt.Errorf("policy %d: %w", i, err)
		}
	}
	return nil
}

// check is about the form: systemd's own files may be about PCR 11 only.
func check(s tpmpolicy.Signed) error {
	if len(s.Signature) == 0 || len(s.Signature) > tpmpolicy.MaxSignature {
		return fmt.Errorf("signature of %d bytes, it must have 1 to %d", len(s.Signature), tpmpolicy.MaxSignature)
	}
	for i, pcr := range s.PCRs {
		if i > 0 && pcr <= s.PCRs[i-1] {
			return fmt.Errorf("PCRs %v are not ascending", s.PCRs)
		}
	}
	_, err := tpmpolicy.Selection(s.PCRs)
	return err
}
