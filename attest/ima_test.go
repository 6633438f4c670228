package attest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestIMAListIsJudgedUpToTheQuote(t *testing.T) {
	l := newLab(t)
	l.ima = readFile(t, bootData, "ima-tcb.binary")
	raw, err := hex.DecodeString(strings.TrimSpace(string(readFile(t, bootData, "ima-tcb.pcr10.hex"))))
	if err != nil {
		t.Fatal(err)
	}
	copy(l.pcr10[:], raw)
	// The list is of another boot of the same machine, so its boot_aggregate is not
	// that of these PCRs: exactly that has to be found.
	l.want(l.evidence(), Untrusted, "IMA list is of another boot")
	facts, err := ReplayIMA(l.ima, l.pcr10)
	if err != nil || facts.Entries != 406 || facts.Ahead != 1 {
		t.Errorf("got %+v, %v; want the quote after entry 406 of 407", facts, err)
	}
	l.pcr10[0] ^= 1
	l.want(l.evidence(), Untrusted, "no prefix of its 407 entries gives PCR 10")
	l.ima = l.ima[:len(l.ima)-1]
	l.want(l.evidence(), Untrusted, "IMA list: replay IMA list: entry 406: at byte")
}

func TestIMABootAggregateTiesTheListToTheQuote(t *testing.T) {
	l := newLab(t)
	aggregate := bootAggregates(l.boot(l.log))[0]
	entry, extend := encodeIMA("ima-ng", aggregate, "boot_aggregate")
	l.ima, l.pcr10 = entry, Extend(Digest{}, extend)
	r := l.want(l.evidence(), Trusted, "")
	if f := r.Facts().IMA; f == nil || f.Entries != 1 || f.BootAggregate != aggregate {
		t.Errorf("IMA facts %+v", f)
	}
	violation, _ := encodeIMA("ima-ng", Digest{}, "/var/log/x")
	copy(violation[4:24], make([]byte, 20))
	ones := Digest(initialPCR(17, sha256.Size, 0))
	l.ima, l.pcr10 = append(slices.Clone(entry), violation...), Extend(l.pcr10, ones)
	r = l.want(l.evidence(), Trusted, "")
	if f := r.Facts().IMA; f.Violations != 1 || f.Entries != 2 {
		t.Errorf("IMA facts %+v", f)
	}
}

// encodeIMA encodes one entry of a binary list and what it extends.
func encodeIMA(template string, file Digest, path string) ([]byte, Digest) {
	le := func(n int) []byte { return []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)} }
	digest := append([]byte("sha256:\x00"), file[:]...)
	data := append(le(len(digest)), digest...)
	data = append(append(data, le(len(path)+1)...), path+"\x00"...)
	out := append(le(10), []byte(strings.Repeat("s", 20))...)
	out = append(append(out, le(len(template))...), template...)
	return append(append(out, le(len(data))...), data...), hashOf(data)
}

func TestIMATemplatesAreRead(t *testing.T) {
	field := func(data []byte) []byte { return appendIMAField(nil, data) }
	ng := append(field(append([]byte("sha256:\x00"), make([]byte, 32)...)), field([]byte("/bin/true\x00"))...)
	v2 := append(field(append([]byte("verity:sha256:\x00"), make([]byte, 32)...)), field([]byte("/bin/true\x00"))...)
	signed := append(bytes.Clone(ng), field([]byte("signature"))...)
	for template, data := range map[string][]byte{
		"ima-ng": ng, "ima-sig": signed, "ima-buf": append(bytes.Clone(ng), field([]byte("buffer"))...),
		"ima-modsig": append(append(bytes.Clone(signed), field([]byte("sha256:\x00x"))...), field([]byte("modsig"))...),
		"ima-ngv2":   v2, "ima-sigv2": append(bytes.Clone(v2), field([]byte("signature"))...), "evm-sig": signed,
	} {
		list := appendIMA(nil, template, data)
		c := &cursor{data: list, order: binary.LittleEndian}
		var e imaEntry
		if e.read(c); c.end("list") != nil || string(e.path) != "/bin/true" || len(e.digest) != 32 || string(e.algorithm) != "sha256" {
			t.Errorf("%s: %+v, %v", template, e, c.err)
		}
		if hasSignature := strings.Contains(template, "sig") && template != "evm-sig"; hasSignature != (string(e.signature) == "signature") {
			t.Errorf("%s: signature %q", template, e.signature)
		}
		if facts, err := ReplayIMA(list, Extend(Digest{}, hashOf(data))); err != nil || facts.Entries != 1 {
			t.Errorf("%s: %+v, %v", template, facts, err)
		}
	}
	legacy := append([]byte{10, 0, 0, 0}, bytes.Repeat([]byte{1}, 20)...)
	legacy = append(appendIMAField(legacy, []byte("ima")), bytes.Repeat([]byte{2}, 20)...)
	legacy = appendIMAField(legacy, []byte("/init"))
	hashed := append(bytes.Repeat([]byte{2}, 20), append([]byte("/init"), make([]byte, 251)...)...)
	if facts, err := ReplayIMA(legacy, Extend(Digest{}, hashOf(hashed))); err != nil || facts.Entries != 1 {
		t.Errorf("ima: %+v, %v", facts, err)
	}
}

// appendIMA appends an entry whose recorded digest is right.
func appendIMA(list []byte, template string, data []byte) []byte {
	sum := sha1.Sum(data)
	list = append(append(list, 10, 0, 0, 0), sum[:]...)
	return appendIMAField(appendIMAField(list, []byte(template)), data)
}

func TestEmptyIMAListIsThatOfAnUnusedPCR(t *testing.T) {
	if _, err := ReplayIMA(nil, Digest{}); err != nil {
		t.Errorf("an empty list with PCR 10 unused: %v", err)
	}
	if _, err := ReplayIMA(nil, Digest{1}); !errors.Is(err, ErrIMAAhead) {
		t.Errorf("an empty list with PCR 10 used: %v", err)
	}
}

// What a violation says of itself no digest covers.
func TestViolationNamesNoBootAggregate(t *testing.T) {
	entry, _ := encodeIMA("ima-ng", Digest{5}, "boot_aggregate")
	copy(entry[4:24], make([]byte, 20))
	ones := Digest(initialPCR(17, sha256.Size, 0))
	facts, err := ReplayIMA(entry, Extend(Digest{}, ones))
	if err != nil || facts.Violations != 1 || !facts.BootAggregate.IsZero() {
		t.Errorf("%+v, %v", facts, err)
	}
}

// One of these lists is of an SM3 bank, and one has the template digest of that with
// other data: a digest that can't be checked is refused like a false one.
func TestIMAListOfTheCorpusIsReadInEveryHash(t *testing.T) {
	dir := corpus(t)
	for name, right := range map[string]bool{"sha1": true, "sha256": true, "sha384": true, "sha512": true, "sm3_256": false, "unknown": false} {
		text := readFile(t, dir, "keylime/keylime-keylime/test/data/create-runtime-policy/ima-log-"+name)
		list, err := IMAFromText(text)
		if !right {
			if err == nil || !strings.Contains(err.Error(), "line 2: recorded digest 7dd89e51") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c := &cursor{data: list, order: binary.LittleEndian}
		var paths []string
		for c.left() > 0 && c.err == nil {
			var e imaEntry
			e.read(c)
			paths = append(paths, fmt.Sprintf("%s %s", e.algorithm, e.path))
		}
		if c.err != nil || !slices.Equal(paths, []string{name + " boot_aggregate", name + " /data"}) {
			t.Errorf("%s: %q, %v", name, paths, c.err)
		}
	}
}
