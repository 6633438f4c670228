package attest

import (
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkVerify appraises the recorded boot and reports its cost in raw ECDSA
// P-256 verifications of the same run (BUDGETS 11): of each what nine tenths of the
// rounds did not reach, as on a machine that is left in peace. The log is a known one,
// as it is from a boot's second quote on.
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
	var raw, ours []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		if !ecdsa.VerifyASN1(&l.key.PublicKey, digest, asn1) {
			b.Fatal("signature")
		}
		middle := time.Now()
		if _, err := Verify(ev, l.expect); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(middle))
		raw = append(raw, middle.Sub(start))
	}
	slices.Sort(raw)
	slices.Sort(ours)
	b.ReportMetric(float64(ours[len(ours)/10])/float64(raw[len(raw)/10]), "x-raw-ecdsa")
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
