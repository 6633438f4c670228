package attest

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	goattest "github.com/google/go-attestation/attest"
	pb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/server"
)

// BenchmarkVerify appraises the recorded boot and reports its cost in raw ECDSA
// P-256 verifications of the same run (BUDGETS 11): of each what nine tenths of the
// rounds did not reach, as on a machine that is left in peace. The log is a known one,
// as it is from a boot's second quote on. Beside it, on the same machine's boot, what
// others do without a policy: verify the quote and replay the log.
func BenchmarkVerify(b *testing.B) {
	l := newLab(b)
	data, err := json.Marshal(l.policy)
	if err != nil {
		b.Fatal(err)
	}
	if l.expect.Policy, err = ParsePolicy(data); err != nil {
		b.Fatal(err)
	}
	ev := l.evidence()
	digest := sha256Sum(ev.Quote)
	asn1, err := ecdsa.SignASN1(nil, l.key, digest)
	if err != nil {
		b.Fatal(err)
	}
	if l.expect.Logs, err = NewLogCache(1 << 20); err != nil {
		b.Fatal(err)
	}
	l.expect.Last = l.want(ev, Trusted, "").Remember(nil)
	takes := make(map[string][]time.Duration)
	measure := func(what string, do func() error) {
		start := time.Now()
		if err := do(); err != nil {
			b.Fatal(what, err)
		}
		takes[what] = append(takes[what], time.Since(start))
	}
	others := verifiers(l)
	b.ReportAllocs()
	for b.Loop() {
		measure("ecdsa", func() error {
			if !ecdsa.VerifyASN1(&l.key.PublicKey, digest, asn1) {
				return errors.New("signature")
			}
			return nil
		})
		measure("ours", func() error { _, err := Verify(ev, l.expect); return err })
		for name, verify := range others {
			measure(name, verify)
		}
	}
	quick := func(what string) float64 {
		slices.Sort(takes[what])
		return float64(takes[what][len(takes[what])/10])
	}
	b.ReportMetric(quick("ours")/quick("ecdsa"), "x-raw-ecdsa")
	for name := range others {
		b.ReportMetric(quick(name)/quick("ecdsa"), "x-"+name)
	}
}

// verifiers of others, each with evidence of the lab's boot before its first boot
// phase, which they do not know.
func verifiers(l *lab) map[string]func() error {
	l.phases = nil
	ev := l.evidence()
	nonce := QualifyingData(labFleet, labDevice, l.expect.Nonce, ev.Claims)
	list, table := []goattest.PCR(nil), make(map[uint32][]byte)
	for _, pcr := range Selection() {
		value := ev.PCRs[pcr]
		list = append(list, goattest.PCR{Index: pcr, Digest: value[:], DigestAlg: crypto.SHA256})
		table[uint32(pcr)] = value[:]
	}
	return map[string]func() error{
		"go-attestation": func() error {
			key, err := goattest.ParseAKPublic(l.expect.AK)
			if err != nil {
				return err
			}
			if err := key.Verify(goattest.Quote{Quote: ev.Quote, Signature: ev.Signature}, list, nonce); err != nil {
				return err
			}
			log, err := goattest.ParseEventLog(l.log)
			if err != nil {
				return err
			}
			_, err = log.Verify(list)
			return err
		},
		"go-tpm-tools": func() error {
			_, err := server.VerifyAttestation(&pb.Attestation{
				AkPub: l.expect.AK, EventLog: l.log,
				Quotes: []*tpmpb.Quote{{Quote: ev.Quote, RawSig: ev.Signature, Pcrs: &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA256, Pcrs: table}}},
			}, server.VerifyOpts{Nonce: nonce, TrustedAKs: []crypto.PublicKey{l.key.Public()}})
			return err
		},
	}
}

// BenchmarkIMA reports the cost of one new entry of an IMA list that is held against
// an allow-list of 50,000 files, after a million old ones (BUDGETS 13).
func BenchmarkIMA(b *testing.B) {
	list := readFile(b, bootData, "ima-tcb.binary")
	var allowed strings.Builder
	for n := range 50_000 {
		fmt.Fprintf(&allowed, "%s  /usr/lib/file-%d\n", hashOf(fmt.Append(nil, n)), n)
	}
	c := &cursor{data: list, order: binary.LittleEndian}
	entries := 0
	for ; c.left() > 0; entries++ {
		var e imaEntry
		if e.read(c); c.err != nil {
			b.Fatal(c.err)
		}
		fmt.Fprintf(&allowed, "%x  %s\n", e.digest, e.path)
	}
	reference := mustReference(b, allowed.String())
	pcr, err := ReplayIMABank(list, AlgSHA256)
	if err != nil {
		b.Fatal(err)
	}
	_, state, err := new(IMAState).replay(list, imaTarget{quoted: Digest(pcr), reference: reference.short(), judge: reference.judge})
	if err != nil || state.unlisted != 0 {
		b.Fatalf("%+v, %v", state, err)
	}
	state.entries, state.size = 1_000_000, state.size+128_000_000/64*64
	quoted := state.pcr
	var spent time.Duration
	for b.Loop() {
		for c.pos = 0; c.left() > 0; {
			var e imaEntry
			e.read(c)
			quoted = Extend(quoted, e.extend())
		}
		last := &Memory{IMA: state}
		sum := state.hash()
		sum.Write(list)
		log := Log{Offset: state.size, Bytes: list, Digest: Digest(sum.Sum(nil))}
		begin := processorTime(b)
		part, err := openIMA(&log, &Expect{Last: last, Policy: &Policy{files: reference}})
		if err != nil {
			b.Fatal(err)
		}
		if _, state, err = part.from.replay(part.bytes, imaTarget{quoted: quoted, reference: reference.short(), judge: reference.judge, sum: part.sum}); err != nil {
			b.Fatal(err)
		}
		spent += processorTime(b) - begin
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N)/float64(entries), "ns/entry")
}

// processorTime is what this process has used: other work on the machine counts not.
func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
