package attest

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// writtenFor writes a list as a kernel since 6.10 does for a bank: in binary (Linux,
// security/integrity/ima/ima_fs.c, ima_measurements_show) and in ASCII. It returns, too,
// what PCR 10 of that bank holds after it, by these template digests.
func writtenFor(t testing.TB, list []byte, bank crypto.Hash) (binaryList, text, pcr []byte) {
	t.Helper()
	c := &cursor{data: list, order: binary.LittleEndian}
	pcr = make([]byte, bank.Size())
	for c.left() > 0 {
		begin := c.pos
		var e imaEntry
		if e.read(c); c.err != nil {
			t.Fatal(c.err)
		}
		h := bank.New()
		h.Write(e.data)
		digest, extend := h.Sum(nil), h.Sum(nil)
		if e.violation {
			digest, extend = make([]byte, bank.Size()), bytes.Repeat([]byte{0xff}, bank.Size())
		}
		binaryList = append(append(append(binaryList, list[begin:begin+4]...), digest...), list[begin+24:c.pos]...)
		text = fmt.Appendf(text, "%2d %x %s %s:%x %s", e.pcr, digest, e.template, e.algorithm, e.digest, e.path)
		if string(e.template) == "ima-sig" {
			text = fmt.Appendf(text, " %x", e.signature)
		}
		text = append(text, '\n')
		h = bank.New()
		h.Write(pcr)
		h.Write(extend)
		pcr = h.Sum(nil)
	}
	return binaryList, text, pcr
}

func TestIMAListsOfEveryBankAreReadAndReplayedAgainstTheirBank(t *testing.T) {
	recorded := readFile(t, bootData, "ima-tcb.binary") // of a kernel
	made, _ := imaList(3)
	violation := append(appendIMAField(nil, append([]byte("sha256:\x00"), make([]byte, 32)...)), appendIMAField(nil, []byte("/x\x00"))...)
	list := appendIMA(bytes.Clone(recorded), "ima-ng", violation)
	copy(list[len(recorded)+4:], make([]byte, 20))
	_, err := ReadIMA(made)
	if err == nil || !strings.Contains(err.Error(), "entry 0: its sha1 template digest is not that of its data") {
		t.Errorf("digests that are none: %v", err)
	}
	for bank, hash := range map[Algorithm]crypto.Hash{AlgSHA1: crypto.SHA1, AlgSHA256: crypto.SHA256, AlgSHA384: crypto.SHA384, AlgSHA512: crypto.SHA512} {
		inBinary, inText, pcr := writtenFor(t, list, hash)
		for form, data := range map[string][]byte{"binary": inBinary, "ASCII": inText} {
			got, err := ReadIMA(data)
			if err != nil || !bytes.Equal(got, list) {
				t.Errorf("%s, %s: %d bytes of %d: %v", bank, form, len(got), len(list), err)
				continue
			}
			if replayed, err := ReplayIMABank(got, bank); err != nil || !bytes.Equal(replayed, pcr) {
				t.Errorf("%s, %s: PCR 10 is %x, %v", bank, form, replayed, err)
			}
		}
		for at := range 150 {
			changed := bytes.Clone(inBinary)
			changed[len(changed)-1-at] ^= 1
			if got, err := ReadIMA(changed); err == nil && bytes.Equal(got, list) {
				t.Fatalf("%s: byte %d from the end may be another", bank, at)
			}
		}
		if _, err := ReadIMA(inBinary[:len(inBinary)-1]); err == nil {
			t.Errorf("%s: a cut list is read", bank)
		}
	}
	if got, err := ReadIMA(nil); err != nil || len(got) != 0 {
		t.Errorf("an empty list: %v", err)
	}
}

// A record carries the list, so that anybody judges it by a policy's files off line.
func TestRecordedEvidenceIsJudgedByItsIMAList(t *testing.T) {
	l := newLab(t)
	l.withIMA(2)
	ev := l.evidence()
	list, _, _ := writtenFor(t, l.ima, crypto.SHA256)
	ev.IMALog = Log{} // as a verifier keeps it
	record := l.recorded(ev, nil)
	l.allow(hashOf([]byte("0")).String() + "  /usr/bin/file-0\n")
	judge := func(grade Grade, text string) {
		t.Helper()
		data, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRecorded(data)
		if err != nil {
			t.Fatal(err)
		}
		r, err := again.Judge(l.parsed(), labNow())
		if err != nil {
			t.Fatal(err)
		}
		if told := strings.Join(r.Explanation(), "\n"); r.Grade() != grade || !strings.Contains(told, text) {
			t.Errorf("%s, want %s with %q:\n%s", r.Grade(), grade, text, told)
		}
	}
	judge(Trusted, "IMA: not tried, the record has no list")
	if err := record.AddIMA(list); err != nil {
		t.Fatal(err)
	}
	judge(Untrusted, "one file without leave: /usr/bin/file-1")
	l.allow(fmt.Sprintf("%s  /usr/bin/file-0\n%s  /usr/bin/file-1\n", hashOf([]byte("0")), hashOf([]byte("1"))))
	judge(Trusted, "all files are listed or signed")
	record.Evidence.IMALog = Log{Bytes: make([]byte, maxRecordedIMA+1)}
	data, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseRecorded(data); err == nil || !strings.Contains(err.Error(), "an IMA list of 8388609 bytes, at most 8388608") {
		t.Errorf("a list that is too long: %v", err)
	}
}

// Property: a list that is read in any form is one that is read again, to the same.
func FuzzIMAForms(f *testing.F) {
	list := readFile(f, bootData, "ima-tcb.binary")[:2000]
	for _, bank := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		c := &cursor{data: list, order: binary.LittleEndian}
		var e imaEntry
		for range 3 {
			e.read(c)
		}
		inBinary, inText, _ := writtenFor(f, list[:c.pos], bank)
		f.Add(inBinary)
		f.Add(inText)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ReadIMA(data)
		if err != nil || len(list) < 2 || list[1] != 0 {
			return
		}
		if again, err := ReadIMA(list); err != nil || !bytes.Equal(again, list) {
			t.Fatalf("%x is read as %x, which is not: %v", data, list, err)
		}
	})
}
