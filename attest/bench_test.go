package attest

import (
	"crypto/ecdsa"
	"encoding/json"
	"testing"
	"time"
)

// BenchmarkVerify appraises the recorded boot and reports its cost in raw ECDSA
// P-256 verifications of the same run (BUDGETS 11). The log is a known one, as it
// is from a boot's second quote on.
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
	var raw, ours time.Duration
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
		raw += middle.Sub(start)
		ours += time.Since(middle)
	}
	b.ReportMetric(float64(ours)/float64(raw), "x-raw-ecdsa")
}

// BenchmarkIMA reports the cost of one entry of an IMA list (BUDGETS 13).
func BenchmarkIMA(b *testing.B) {
	list := readFile(b, bootData, "ima-tcb.binary")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReplayIMA(list, Digest{1}, nil); err == nil {
			b.Fatal("matched")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/407, "ns/entry")
}
