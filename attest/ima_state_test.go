package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// imaList is a list of n files with its replay.
func imaList(n int) (list []byte, pcr Digest) {
	for i := range n {
		entry, extend := encodeIMA("ima-ng", hashOf(fmt.Append(nil, i)), fmt.Sprintf("/usr/bin/file-%d", i))
		list, pcr = append(list, entry...), Extend(pcr, extend)
	}
	return list, pcr
}

// withIMA gives the lab a list that begins with the boot_aggregate of its boot.
func (l *lab) withIMA(files int) {
	l.ima, l.pcr10 = nil, Digest{}
	l.bootedAs(bootAggregates(l.boot(l.log))[0])
	for i := range files {
		l.runs(fmt.Sprintf("/usr/bin/file-%d", i), fmt.Append(nil, i))
	}
}

// bootedAs begins a list.
func (l *lab) bootedAs(aggregate Digest) {
	entry, extend := encodeIMA("ima-ng", aggregate, "boot_aggregate")
	l.ima, l.pcr10 = append(l.ima, entry...), Extend(l.pcr10, extend)
}

// violates measures a file that is being written.
func (l *lab) violates(path string) {
	entry, _ := encodeIMA("ima-ng", Digest{}, path)
	copy(entry[4:24], make([]byte, 20))
	l.ima, l.pcr10 = append(l.ima, entry...), Extend(l.pcr10, Digest(bytes.Repeat([]byte{0xff}, 32)))
}

// runs measures one more file.
func (l *lab) runs(path string, contents []byte) {
	entry, extend := encodeIMA("ima-ng", hashOf(contents), path)
	l.ima, l.pcr10 = append(l.ima, entry...), Extend(l.pcr10, extend)
}

// goingOn is evidence with the list from where the last appraisal read it, after the
// verifier was started again.
func (l *lab) goingOn(last *Result) Evidence {
	l.t.Helper()
	data, err := json.Marshal(last.Remember(nil))
	if err != nil {
		l.t.Fatal(err)
	}
	l.expect.Last = &Memory{}
	if err := json.Unmarshal(data, l.expect.Last); err != nil {
		l.t.Fatal(err)
	}
	ev := l.evidence()
	size, digest, ok := l.expect.Last.IMA.Held(l.parsed())
	if !ok || digest != hashOf(l.ima[:size]) {
		l.t.Fatalf("the verifier holds %d bytes, %s, %t", size, digest, ok)
	}
	ev.IMALog.Offset, ev.IMALog.Bytes = size, l.ima[size:]
	return ev
}

func TestIMAListGoesOnWhereItWasReadAfterARestart(t *testing.T) {
	l := newLab(t)
	l.withIMA(10)
	whole := l.want(l.evidence(), Trusted, "")
	l.runs("/usr/bin/more", []byte("more"))
	r := l.want(l.goingOn(whole), Trusted, "")
	if f := r.Facts().IMA; f.Entries != 12 || f.Ahead != 0 {
		t.Errorf("facts %+v", f)
	}
	r = l.want(l.goingOn(r), Trusted, "") // nothing new
	// The list is read after the quote, and may be ahead: that part comes again.
	quoted := l.pcr10
	l.runs("/usr/bin/late", []byte("late"))
	after := l.pcr10
	l.pcr10 = quoted
	r = l.want(l.goingOn(r), Trusted, "")
	if f := r.Facts().IMA; f.Entries != 12 || f.Ahead != 1 {
		t.Errorf("facts %+v", f)
	}
	l.pcr10 = after
	if f := l.want(l.goingOn(r), Trusted, "").Facts().IMA; f.Entries != 13 || f.Ahead != 0 {
		t.Errorf("facts %+v", f)
	}
}

func TestIMAListThatGoesOnFalselyIsNotWhatTheTPMSaw(t *testing.T) {
	l := newLab(t)
	l.withIMA(3)
	first := l.want(l.evidence(), Trusted, "")
	l.runs("/usr/bin/bad", []byte("bad"))
	ev := l.goingOn(first)
	other, _ := encodeIMA("ima-ng", hashOf([]byte("good")), "/usr/bin/good")
	ev.IMALog.Bytes = other
	ev.IMALog.Digest = hashOf(append(slices.Clone(l.ima[:ev.IMALog.Offset]), other...))
	r := l.want(ev, Untrusted, "IMA list is not what the TPM saw")
	if r.Remember(nil).IMA != nil {
		t.Error("a list that does not hold is remembered")
	}
	ev.IMALog.Digest[0] ^= 1
	_, err := l.judge(ev)
	wantRefusal(t, err, "log")
	ev.IMALog.Offset--
	_, err = l.judge(ev)
	wantRefusal(t, err, "log")
	l.expect.Last = nil
	_, err = l.judge(l.withOffset(5))
	wantRefusal(t, err, "log")
}

func (l *lab) withOffset(n int64) Evidence {
	ev := l.evidence()
	ev.IMALog.Offset, ev.IMALog.Bytes = n, l.ima[n:]
	return ev
}

// A list longer than a message comes in parts, and is judged when it is whole.
func TestLongIMAListComesInParts(t *testing.T) {
	l := newLab(t)
	l.withIMA(45000)
	const part = 2 << 20
	if len(l.ima) < 2*minIMAPart+part {
		t.Fatalf("a list of %d bytes", len(l.ima))
	}
	l.policy.Rules = map[string]Severity{}
	ev := l.evidence()
	ev.IMALog.Bytes = l.ima[:part]
	r := l.want(ev, Trusted, "")
	if f := r.Facts().IMA; !f.Pending || f.Entries == 0 {
		t.Errorf("facts %+v", f)
	}
	// A device that begins anew without a reset hides something.
	l.expect.Last = r.Remember(nil)
	l.want(ev, Untrusted, "begins anew")
	l.clock.ResetCount++
	ev = l.evidence()
	ev.IMALog.Bytes = l.ima[:part]
	r = l.want(ev, Trusted, "")
	ev = l.goingOn(r)
	ev.IMALog.Bytes = ev.IMALog.Bytes[:minIMAPart+1]
	r = l.want(ev, Trusted, "")
	if f := r.Facts().IMA; !f.Pending {
		t.Errorf("facts %+v", f)
	}
	if f := l.want(l.goingOn(r), Trusted, "").Facts().IMA; f.Pending || f.Entries != 45001 {
		t.Errorf("facts %+v", f)
	}
	ev.IMALog.Bytes = ev.IMALog.Bytes[:minIMAPart-1]
	_, err := l.judge(ev)
	wantRefusal(t, err, "log")
}

func TestIMAStateIsSmallAndHasOneEncoding(t *testing.T) {
	list, pcr := imaList(1000)
	_, state, err := new(IMAState).replay(list, imaTarget{quoted: pcr})
	if err != nil {
		t.Fatal(err)
	}
	text, err := state.MarshalText()
	if err != nil || len(text) > 256 {
		t.Fatalf("%d bytes, at most 256 are allowed: %v", len(text), err)
	}
	var again IMAState
	if err := again.UnmarshalText(text); err != nil || again != *state {
		t.Errorf("%+v became %+v, %v", *state, again, err)
	}
	for _, bad := range [][]byte{nil, text[1:], text[:len(text)-1], append(bytes.Clone(text), 'A'), append([]byte("AQ"), text[2:]...)} {
		if err := new(IMAState).UnmarshalText(bad); err == nil {
			t.Errorf("%.20q... is accepted", bad)
		}
	}
}

// What a verifier remembered before there was a rule for each kind of file is not
// taken for good, and does not stop it.
func TestIMAStateOfVersion1IsForgotten(t *testing.T) {
	const old = "AQAAAAAAAAABMQAAAAMAAAAAAAAAABjdQtx68uMRuFEWNJfX+Meg8Fc8xW9nnW3RubxUsdDyAAAAAAAAAAAAAAAAAAAAAHNoYQNcZhIemoB9IlhgEIWaICdT" +
		"hhqnp/v0Xbg5z9xRf7ceOnP/NPzhnWuATv9aP1dHraTqoi8dScAeUt23h1tLEAAAAC91c3IvYmluL2ZpbGUtMQAAAAAAAAAAAAAAAAAAAAAAAAAAAAABMQ"
	var m Memory
	if err := json.Unmarshal([]byte(`{"clock":{},"trusted":null,"ima":"`+old+`"}`), &m); err != nil {
		t.Fatal(err)
	}
	if *m.IMA != (IMAState{}) {
		t.Errorf("%+v", m.IMA)
	}
}

// BUDGETS 13: what is new costs the same, however long the list is.
func TestNewIMAEntriesCostTheSameAfterAMillion(t *testing.T) {
	list, pcr := imaList(1000)
	long := &IMAState{entries: 1e6, size: 130e6, pcr: Digest{7}}
	h := sha256.New()
	h.Write(make([]byte, 130_000_000%64))
	long.keepSum(h)
	if _, _, err := long.replay(list, imaTarget{quoted: pcr}); err == nil {
		t.Fatal("matched")
	}
	cost := func(s *IMAState) float64 {
		return testing.AllocsPerRun(5, func() { _, _, _ = s.replay(list, imaTarget{quoted: Digest{1}}) })
	}
	if short, late := cost(&IMAState{}), cost(long); late > short+2 {
		t.Errorf("1000 entries allocate %.0f times at first, %.0f times after a million", short, late)
	}
}

func TestIMABanksAreReplayed(t *testing.T) {
	list := readFile(t, bootData, "ima-tcb.binary")
	facts, err := ReplayIMA(list, Digest{1})
	if err == nil || facts.Entries != 407 {
		t.Fatalf("%+v, %v", facts, err)
	}
	value, err := ReplayIMABank(list, AlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if facts, err := ReplayIMA(list, Digest(value)); err != nil || facts.Entries != 407 || facts.Ahead != 0 {
		t.Errorf("%+v, %v", facts, err)
	}
	for _, alg := range []Algorithm{AlgSHA1, AlgSHA384, AlgSHA512} {
		if value, err := ReplayIMABank(list, alg); err != nil || len(value) != alg.size() {
			t.Errorf("%s: %x, %v", alg, value, err)
		}
	}
	if _, err := ReplayIMABank(list, algSM3); err == nil || !strings.Contains(err.Error(), "sm3_256") {
		t.Errorf("a bank that Go can't hash: %v", err)
	}
	if _, err := ReplayIMABank(list[:len(list)-1], AlgSHA1); err == nil || !strings.Contains(err.Error(), "at byte") {
		t.Errorf("a cut list: %v", err)
	}
}
