package attest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// Foreign is evidence that another tool gathered: a quote over a nonce and nothing
// else. It proves a boot of the TPM that has AK; it is bound to no device, no channel
// and no claims, so no certificate may follow from it.
type Foreign struct {
	AK        []byte         // TPMT_PUBLIC
	Quote     []byte         // TPMS_ATTEST
	Signature []byte         // TPMT_SIGNATURE
	PCRs      map[int]Digest // SHA-256 bank: all that were quoted
	EventLog  []byte
}

// VerifyForeign judges f as Verify does, by the policy, model and firmware sets in e;
// nothing else of e counts. nonce is what the quote must carry. The quote is over
// one selection of the SHA-256 bank, which holds at least Selection().
func VerifyForeign(f Foreign, nonce []byte, e Expect) (*Result, error) {
	switch {
	case len(nonce) == 0:
		return nil, errors.New("verify evidence: nonce is missing")
	case e.Policy == nil || e.Policy.releases == nil:
		return nil, errors.New("verify evidence: policy was not made by ParsePolicy")
	case e.Now.IsZero():
		return nil, errors.New("verify evidence: time is missing")
	}
	ak, err := parseAK(f.AK)
	if err != nil {
		return nil, refuse("key", "the attestation key: %v", err)
	}
	q, err := openQuote(ak, f.Quote, f.Signature)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(q.extraData, nonce) {
		return nil, refuse("nonce", "the quote is not over this nonce: it is old, or made for another")
	}
	pcrs, err := f.checkPCRs(q)
	if err != nil {
		return nil, err
	}
	e = Expect{Policy: e.Policy, Firmware: slices.Concat(e.Firmware, e.Policy.firmwareOf(e.Model)), Now: e.Now}
	var known *knownLog
	if len(f.EventLog) > 0 {
		known = readLog(sha256.Sum256(f.EventLog), f.EventLog)
	}
	q.clock.Key = sha256.Sum256(f.AK)
	return conclude(&appraisal{expect: &e, pcrs: pcrs, clock: q.clock}, known, nil), nil
}

// checkPCRs returns the values that rules look at, all of which were quoted.
func (f *Foreign) checkPCRs(q *quote) (map[int]Digest, error) {
	if len(q.selection) != 1 || q.selection[0].bank != AlgSHA256 || len(q.selection[0].mask) > 4 {
		return nil, refuse("selection", "the quote is not over the SHA-256 bank alone")
	}
	h := sha256.New()
	count := 0
	for pcr := range 8 * len(q.selection[0].mask) {
		if q.selection[0].mask[pcr/8]&(1<<(pcr%8)) == 0 {
			continue
		}
		value, ok := f.PCRs[pcr]
		if !ok {
			return nil, refuse("pcrs", "the value of PCR %d is missing", pcr)
		}
		h.Write(value[:])
		count++
	}
	if len(f.PCRs) != count {
		return nil, refuse("pcrs", "values of %d PCRs, %d were quoted", len(f.PCRs), count)
	}
	if !bytes.Equal(h.Sum(nil), q.pcrDigest) {
		return nil, refuse("digest", "the PCR values are not those that were quoted")
	}
	pcrs := make(map[int]Digest, len(selection))
	for _, pcr := range selection {
		value, ok := f.PCRs[pcr]
		if !ok {
			return nil, refuse("selection", "the quote does not cover PCR %d", pcr)
		}
		pcrs[pcr] = value
	}
	return pcrs, nil
}

// QuotedNonce returns what the quote carries, whoever made it: for a person who looks
// at evidence without having asked for it.
func (f *Foreign) QuotedNonce() ([]byte, error) {
	q, err := parseQuote(f.Quote)
	if err != nil {
		return nil, fmt.Errorf("read quote: %w", err)
	}
	return q.extraData, nil
}
