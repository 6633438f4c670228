package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/json"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// seed adds the logs of the corpus, where there is one.
func seed(f *testing.F) {
	f.Add(readFile(f, bootData, "ovmf-uki.eventlog"))
	dir := os.Getenv("GATEWARDEN_CORPUS")
	if dir == "" {
		return
	}
	for _, entry := range manifest(f, dir) {
		if entry.Expect != nil {
			f.Add(corpusLog(f, dir, entry.Path))
		}
	}
}

// seedEvents adds a part of each event of the recorded logs.
func seedEvents(f *testing.F, part func(*LogEvent) []byte) {
	add := func(raw []byte) {
		log, err := ParseEventLog(raw)
		if err != nil {
			return
		}
		for i := range log.Events {
			if data := part(&log.Events[i]); data != nil {
				f.Add(data)
			}
		}
	}
	add(readFile(f, bootData, "ovmf-uki.eventlog"))
	if dir := os.Getenv("GATEWARDEN_CORPUS"); dir != "" {
		for _, entry := range manifest(f, dir) {
			if entry.Expect != nil {
				add(corpusLog(f, dir, entry.Path))
			}
		}
	}
}

// Property: a log that parses can be read again from the encoding of its events,
// to the same PCRs and facts, if SHA-256 is its only bank.
func FuzzEventLog(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		log, err := ParseEventLog(raw)
		if err != nil {
			return
		}
		for i := range log.Events {
			if text, _ := log.Events[i].Describe(); text != clean(text) {
				t.Fatalf("event %d is described as %q", i, text)
			}
		}
		facts := extractFacts(log, func(int) bool { return true })
		if _, err := json.Marshal(facts); err != nil {
			t.Fatal(err)
		}
		pcrs, err := log.Replay()
		if err != nil {
			return
		}
		again := NewEventLog()
		for _, e := range log.Events {
			if e.Type != evNoAction || e.Index > 0 { // but the header
				again = AppendEvent(again, e)
			}
		}
		second, err := ParseEventLog(again)
		if err != nil {
			if len(again) > maxEventLog || padding(tail(again, log)) {
				return
			}
			t.Fatalf("its own encoding is refused: %v", err)
		}
		replayed, err := second.Replay()
		if err != nil {
			t.Fatal(err)
		}
		for pcr, value := range pcrs {
			if replayed[pcr] != value && second.Padding == 0 {
				t.Fatalf("PCR %d: %s, then %s", pcr, value, replayed[pcr])
			}
		}
	})
}

// tail is the encoding of the last event.
func tail(raw []byte, log *EventLog) []byte {
	last := log.Events[len(log.Events)-1]
	return raw[max(0, len(raw)-50-len(last.Data)):]
}

// Property: signatures never take more bytes than the lists have.
func FuzzSignatureLists(f *testing.F) {
	list := make([]byte, 28+48)
	copy(list, "\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28")
	binary.LittleEndian.PutUint32(list[16:], uint32(len(list)))
	binary.LittleEndian.PutUint32(list[24:], 48)
	f.Add(list)
	f.Add(append(bytes.Clone(list), list...))
	seedEvents(f, func(e *LogEvent) []byte {
		if e.Type != evVariableDriver {
			return nil
		}
		_, contents, _ := parseVariable(e, e.Data)
		return contents
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		total := 0
		if err := walkSignatures(data, func(_ string, s []byte) { total += len(s) + 16 }); err == nil && total > len(data) {
			t.Fatalf("%d bytes of signatures in %d", total, len(data))
		}
	})
}

// Property: a device path is named, shortly and as a whole, as it is when it is cut out
// of what is around it; and no path is told in more than it takes.
func FuzzDevicePath(f *testing.F) {
	f.Add(imageLoad(fileNode(`\EFI\Linux\gw-a.efi`)))
	seedEvents(f, func(e *LogEvent) []byte {
		if !e.startsImage() {
			return nil
		}
		return e.Data
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		path, ok := loadedFrom(data)
		if !ok {
			if imagePath(data) != unreadable {
				t.Fatalf("%q of no path", imagePath(data))
			}
			return
		}
		if alone := imageLoadOf(path); imagePath(alone) != imagePath(data) {
			t.Fatalf("%q, alone %q", imagePath(data), imagePath(alone))
		}
		if text := devicePath(path); len(text) > 16*len(path)+len(unreadable) {
			t.Fatalf("%d bytes told as %q", len(path), text)
		}
	})
}

// imageLoadOf is an event about a device path and nothing else.
func imageLoadOf(path []byte) []byte {
	return append(binary.LittleEndian.AppendUint64(make([]byte, 24), uint64(len(path))), path...)
}

// Property: a list that is replayed in two parts, with the state in between encoded
// and decoded, is what it is in one.
func FuzzIMA(f *testing.F) {
	entry, extend := encodeIMA("ima-sig", Digest{1}, "boot_aggregate")
	pcr := Extend(Digest{}, extend)
	f.Add(entry, pcr[:], 0)
	f.Add(append(bytes.Clone(entry), entry...), pcr[:], len(entry))
	f.Add(readFile(f, bootData, "ima-tcb.binary")[:4096], pcr[:], 300)
	f.Fuzz(func(t *testing.T, list, quoted []byte, cut int) {
		var want Digest
		copy(want[:], quoted)
		whole, state, err := new(IMAState).replay(list, imaTarget{quoted: want})
		if err != nil {
			return
		}
		if cut < 0 || int64(cut) > state.size {
			return
		}
		_, begin, err := new(IMAState).replay(list[:cut], imaTarget{quoted: want, more: true})
		if err != nil {
			return
		}
		text, err := begin.MarshalText()
		if err != nil || len(text) > 256 {
			t.Fatalf("state of %d bytes, %v", len(text), err)
		}
		var decoded IMAState
		if err := decoded.UnmarshalText(text); err != nil {
			t.Fatal(err)
		}
		facts, end, err := decoded.replay(list[decoded.size:], imaTarget{quoted: want})
		if err != nil || facts.Entries != whole.Entries || facts.Violations != whole.Violations || *end != *state {
			t.Fatalf("cut at %d: %+v, in one %+v: %v", cut, facts, whole, err)
		}
	})
}

// Property: an ASCII list that is read is replayed, and its first entry is the line's.
func FuzzIMAText(f *testing.F) {
	f.Add([]byte("10 1d8d532d463c9f8c205d0df7787669a85f93e260 ima-ng sha1:0000000000000000000000000000000000000000 boot_aggregate\n"))
	f.Add([]byte("10 0000000000000000000000000000000000000000 ima-sig sha256:00 /x 030204\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := IMAFromText(text)
		if err != nil {
			return
		}
		if _, err := ReplayIMABank(list, AlgSHA1); err != nil && len(list) <= maxIMALog {
			t.Fatalf("its binary form is refused: %v", err)
		}
	})
}

// Property: no signature verifies but by a configured key.
func FuzzIMASignature(f *testing.F) {
	digest := sha256Sum([]byte("file"))
	named := fileKey{public: &newLab(f).key.PublicKey, id: []byte{1, 2, 3, 4}}
	r := &imaReference{keys: []fileKey{named}, good: make(map[Digest]struct{})}
	f.Add([]byte{3, 2, 4, 1, 2, 3, 4, 0, 1, 0})
	f.Fuzz(func(t *testing.T, signature []byte) {
		e := &imaEntry{algorithm: []byte("sha256"), digest: digest, path: []byte("/x"), signature: signature}
		if rule, _ := r.verifyFile(e); rule == "" {
			t.Fatalf("%x verifies", signature)
		}
	})
}

// Property: nothing but what the key signed is ever judged, and no input is
// trusted but the one that the lab made.
func FuzzVerify(f *testing.F) {
	l := newLab(f)
	data, err := json.Marshal(l.policy)
	if err != nil {
		f.Fatal(err)
	}
	expect := l.expect
	if expect.Policy, err = ParsePolicy(data); err != nil {
		f.Fatal(err)
	}
	good := l.evidence()
	f.Add(good.Quote, good.Signature, good.Claims, good.EventLog.Bytes, []byte(nil))
	f.Fuzz(func(t *testing.T, quote, signature, claims, log, ima []byte) {
		ev := Evidence{Version: 1, Quote: quote, Signature: signature, Claims: claims, PCRs: good.PCRs, EventLog: wholeLog(log), IMALog: wholeLog(ima)}
		r, err := Verify(ev, expect)
		if err != nil {
			return
		}
		if !bytes.Equal(quote, good.Quote) || !bytes.Equal(claims, good.Claims) {
			t.Fatal("judged what the key did not sign")
		}
		if len(r.Explanation()) == 0 || r.Grade() == "" {
			t.Fatal("a verdict without words")
		}
	})
}

// Property: a quote that parses is the one encoding of what go-tpm reads in it, and a
// public area that parses has a key.
func FuzzTPMStructures(f *testing.F) {
	l := newLab(f)
	ev := l.evidence()
	f.Add(l.expect.AK, ev.Quote)
	f.Fuzz(func(t *testing.T, public, quote []byte) {
		if ak, err := parseAK(public); err == nil && ak.public == nil {
			t.Fatal("a key without a key")
		}
		q, err := parseQuote(quote)
		if err != nil {
			return
		}
		theirs, err := tpm2.Unmarshal[tpm2.TPMSAttest](quote)
		if err != nil {
			t.Fatalf("go-tpm can't read it: %v", err)
		}
		if again := tpm2.Marshal(*theirs); !bytes.Equal(again, quote) {
			t.Fatalf("%x is encoded %x", quote, again)
		}
		if q.coversSelection() && len(q.selection) != 1 {
			t.Fatal("covers more than one bank")
		}
	})
}

// Property: a signature that verifies is one to go-tpm and crypto/ecdsa, too.
func FuzzSignature(f *testing.F) {
	l := newLab(f)
	ev, ak := l.evidence(), &attestationKey{scheme: algECDSA, hash: AlgSHA256, public: &l.key.PublicKey}
	digest := sha256Sum(ev.Quote)
	f.Add(ev.Signature)
	f.Fuzz(func(t *testing.T, signature []byte) {
		if ak.verify(digest, signature, crypto.SHA256) != nil {
			return
		}
		s, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
		if err != nil {
			t.Fatalf("go-tpm can't read it: %v", err)
		}
		points, err := s.Signature.ECDSA()
		if err != nil || points.Hash != tpm2.TPMAlgSHA256 ||
			!ecdsa.Verify(&l.key.PublicKey, digest, new(big.Int).SetBytes(points.SignatureR.Buffer), new(big.Int).SetBytes(points.SignatureS.Buffer)) {
			t.Fatalf("%x verifies: %v", signature, err)
		}
	})
}

// Property: evidence in JSON that is judged has the quote and claims that the key
// signed, and is judged alike as it is encoded again.
func FuzzRecorded(f *testing.F) {
	l := newLab(f)
	l.withIMA(3)
	ev := l.evidence()
	r := l.want(ev, Trusted, "")
	data, err := json.Marshal(l.recorded(ev, r.Facts()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	policy := l.parsed()
	judge := func(data []byte) (*Recorded, *Result) {
		record, err := ParseRecorded(data)
		if err != nil {
			return nil, nil
		}
		result, err := record.Judge(policy, labNow())
		if err != nil {
			return record, nil
		}
		return record, result
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		record, result := judge(data)
		if result == nil {
			return
		}
		if !bytes.Equal(record.Evidence.Quote, ev.Quote) && bytes.Equal(record.AK, l.expect.AK) {
			t.Fatal("judged what the key did not sign")
		}
		again, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		if _, second := judge(again); len(again) <= maxRecorded && (second == nil || !slices.Equal(second.Explanation(), result.Explanation())) {
			t.Fatalf("judged otherwise as it was encoded again: %s", again)
		}
	})
}

// Property: a policy that is accepted is accepted again as it was encoded.
func FuzzPolicy(f *testing.F) {
	data, err := json.Marshal(newLab(f).policy)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"v":1,"issued":"2026-11-23T12:00:00Z","fleet":"meadow","releases":[{"product":"gw","version":"1","boot_applications":["` + strings.Repeat("1", 64) +
		`"],"command_lines":["/vmlinuz"],"grub":{"commands":["boot"],"files":[{"name":"/vmlinuz","digest":"` + strings.Repeat("2", 64) + `"}]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePolicy(again); err != nil && len(again) <= maxPolicy {
			t.Fatalf("%q was accepted, its own encoding %q was not: %v", data, again, err)
		}
	})
}
