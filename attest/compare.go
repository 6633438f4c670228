package attest

import (
	"bytes"
	"fmt"
)

// Comparison is what a log says of one PCR, and what the TPM holds in it.
type Comparison struct {
	PCR    int      `json:"pcr"`
	Logged []byte   `json:"logged"`
	Held   []byte   `json:"held"`
	OK     bool     `json:"ok"`
	Phases []string `json:"phases,omitempty"` // boot phases that led from one to the other: PCR 11
}

// Compare replays the log in one bank and holds it against what a TPM has in those of
// PCRs 0 to 9 and 11 to 14 that are given. PCR 10 is the IMA list's. Values that no
// quote signed prove nothing to others: this is for a person at the machine.
func (l *EventLog) Compare(alg Algorithm, held map[int][]byte) ([]Comparison, error) {
	replay, err := l.ReplayBank(alg)
	if err != nil {
		return nil, err
	}
	var out []Comparison
	for _, pcr := range selection {
		value, given := held[pcr]
		if !given || pcr == imaPCR {
			continue
		}
		if len(value) != alg.size() {
			return nil, fmt.Errorf("compare event log: PCR %d has %d bytes, %s %d", pcr, len(value), alg, alg.size())
		}
		c := Comparison{PCR: pcr, Logged: replay[pcr], Held: value}
		if c.Logged == nil {
			c.Logged = initialPCR(pcr, alg.size(), l.Locality)
		}
		c.OK = bytes.Equal(c.Logged, c.Held)
		if pcr == 11 && alg == AlgSHA256 && !c.OK {
			c.Phases, c.OK = findPhases(defaultPhases(), Digest(c.Logged), Digest(c.Held))
		}
		out = append(out, c)
	}
	return out, nil
}
