package identity

import (
	"crypto/x509"
	"encoding/binary"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	historyFile    = "history.json" // of certificates, the newest first
	maxHistory     = 32
	maxHistoryFile = 128 << 10
)

// Record is what is remembered of a certificate: for people, and for the TPM's
// clock. Without it the device renews by the other clocks.
type Record struct {
	Serial    string    `json:"serial"`
	Identity  string    `json:"identity"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Obtained  time.Time `json:"obtained"` // by the device's clock, which may be wrong
	Why       string    `json:"why"`      // it was asked for
	Gate      wire.Gate `json:"gate"`     // which life the fleet allowed
	Grade     string    `json:"grade"`    // of the verdict behind it
	Reason    string    `json:"reason"`   // of that grade, in a sentence
	// TPMClock are the milliseconds that the TPM had been powered when the key was
	// certified.
	TPMClock uint64 `json:"tpm_clock"`
}

type history struct {
	Version      int      `json:"v"` // 1
	Certificates []Record `json:"certificates"`
}

// readHistory returns none if the file can't be read: nothing depends on it that
// can't be had otherwise.
func (s store) readHistory() []Record {
	var h history
	if err := s.fs.ReadJSON(s.path(historyFile), maxHistoryFile, &h); err != nil || h.Version != 1 {
		return nil
	}
	return h.Certificates
}

func (s store) writeHistory(list []Record) error {
	return s.fs.WriteJSON(s.path(historyFile), history{Version: 1, Certificates: list[:min(len(list), maxHistory)]}, 0o600)
}

// remember notes a certificate before it is stored, so that no cut leaves one in
// use of which nothing is known.
func (i *Identity) remember(leaf *x509.Certificate, why string) {
	now, _ := i.cfg.Clock.Now()
	r := Record{
		Serial: leaf.SerialNumber.Text(16), Identity: leaf.Subject.CommonName, Issuer: leaf.Issuer.CommonName,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Obtained: now.UTC().Truncate(time.Second),
		Why: why, Gate: i.verdict.Gate, Grade: i.verdict.Grade, Reason: i.verdict.Summary(), TPMClock: i.certified,
	}
	i.mu.Lock()
	i.records = append([]Record{r}, i.records...)
	i.records = i.records[:min(len(i.records), maxHistory)]
	list := i.records
	i.mu.Unlock()
	if err := i.store.writeHistory(list); err != nil {
		i.cfg.Log.Error("store history of certificates", "error", err)
	}
}

// recallCredential begins a record for a certificate of which nothing is known any
// more.
func (i *Identity) recallCredential() {
	if current, ok := i.Current(); ok && i.Record().Serial == "" {
		i.remember(current.Leaf(), "not known any more: its record was lost")
	}
}

// History lists the certificates that the device was issued, the newest first.
func (i *Identity) History() []Record {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.records
}

// Record is what is remembered of the certificate in use; the zero value if that is
// nothing.
func (i *Identity) Record() Record {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current != nil {
		for _, r := range i.records {
			if r.Serial == i.current.Serial() {
				return r
			}
		}
	}
	return Record{}
}

// tpmClock reads the clock out of a TPMS_ATTEST (TPM 2.0 Part 2, 10.12.12), 0 if
// it is none.
func tpmClock(statement []byte) uint64 {
	rest := statement[min(6, len(statement)):] // magic and type
	for range 2 {                              // qualified signer, extra data
		if len(rest) < 2 {
			return 0
		}
		size := 2 + int(binary.BigEndian.Uint16(rest))
		rest = rest[min(size, len(rest)):]
	}
	if len(rest) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(rest)
}

// Heed asks for a renewal if a verdict calls for one, and says whether it does: the
// fleet wants another certificate, or would allow a longer life than that of the one
// in use. Who has healed does not wait for the end of the short one.
func (i *Identity) Heed(v wire.Verdict) bool {
	switch {
	case v.Renew:
		i.Kick("the verdict is " + v.Grade)
	case v.Gate == wire.GateFull && i.Record().Gate == wire.GateShort:
		i.Kick("the device is trusted again")
	default:
		return false
	}
	return true
}
