package attest

import (
	"bytes"
	"strings"
	"testing"

	goattest "github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
)

// go-attestation reads the same events from every log that it can read at all.
func TestEventsAreThoseThatGoAttestationReads(t *testing.T) {
	dir := corpus(t)
	compared := 0
	for _, entry := range manifest(t, dir) {
		if entry.Expect == nil || entry.Expect.Err != nil {
			continue
		}
		raw := corpusLog(t, dir, entry.Path)
		log, err := ParseEventLog(raw)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := goattest.ParseEventLog(raw)
		if err != nil {
			if !strings.HasSuffix(entry.Path, "specid-vendordata.bin") || !strings.Contains(err.Error(), "reading vendor info") {
				t.Errorf("%s: go-attestation does not read it, for a reason that docs/attestation.md does not explain: %v", entry.Path, err)
			}
			continue
		}
		alg, bank := goattest.HashSHA256, AlgSHA256
		if log.Format == FormatLegacy {
			alg, bank = goattest.HashSHA1, AlgSHA1
		}
		if !log.has(bank) {
			continue
		}
		compared++
		var ours []*LogEvent
		for i := range log.Events {
			if e := &log.Events[i]; e.Extends() {
				ours = append(ours, e)
			}
		}
		var extending []goattest.Event
		for _, e := range theirs.Events(alg) {
			if e.Type != goattest.EventType(evNoAction) {
				extending = append(extending, e)
			}
		}
		if len(ours) != len(extending) {
			t.Errorf("%s: %d events, go-attestation has %d", entry.Path, len(ours), len(extending))
			continue
		}
		for i, e := range extending {
			if o := ours[i]; o.PCR != e.Index || uint32(o.Type) != uint32(e.Type) || !bytes.Equal(o.bank(bank), e.Digest) || !bytes.Equal(o.Data, e.Data) {
				t.Errorf("%s: event %d differs from go-attestation's", entry.Path, o.Index)
				break
			}
		}
	}
	if compared < 20 {
		t.Errorf("only %d logs compared", compared)
	}
}

// go-tpm reads the same structures; ours refuse more, never less.
func TestGoTPMReadsTheSameQuote(t *testing.T) {
	l := newLab(t)
	ev := l.evidence()
	q, err := parseQuote(ev.Quote)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := tpm2.Unmarshal[tpm2.TPMSAttest](ev.Quote)
	if err != nil {
		t.Fatal(err)
	}
	info, err := theirs.Attested.Quote()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(q.extraData, theirs.ExtraData.Buffer) || !bytes.Equal(q.pcrDigest, info.PCRDigest.Buffer) ||
		q.clock.ResetCount != theirs.ClockInfo.ResetCount || q.clock.Milliseconds != theirs.ClockInfo.Clock {
		t.Errorf("%+v is not %+v", q, theirs)
	}
	for n := range ev.Quote {
		if _, err := parseQuote(ev.Quote[:n]); err == nil {
			t.Errorf("a quote cut to %d bytes is accepted", n)
		}
	}
}
