package tpmpolicy_test

import (
	"bytes"
	"crypto/elliptic"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy/sigfile"
)

func TestFileRoundTrip(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	s, err := tpmpolicy.ApproveWithoutRef(key, values(4, 11, 12, 13))
	if err != nil {
		t.Fatal(err)
	}
	data, err := sigfile.Encode([]tpmpolicy.Signed{s})
	if err != nil {
		t.Fatal(err)
	}
	list, err := sigfile.Parse(data)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d entries, %v", len(list), err)
	}
	if err := list[0].Verify(key.Public(), nil); err != nil {
		t.Error(err)
	}
}

func TestHostileFilesAreRefused(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	entry := `{"pcrs":[11],"pkfp":"` + digest + `","pol":"` + digest + `","sig":"AA=="}`
	if _, err := sigfile.Parse([]byte(`{"sha1":[{"x":1}],"sha256":[` + entry + `]}`)); err != nil {
		t.Errorf("a good file: %v", err)
	}
	for name, text := range map[string]string{
		"no JSON":          `{"sha256":`,
		"key twice":        `{"sha256":[],"sha256":[` + entry + `]}`,
		"unknown key":      `{"sha256":[{"pcr":[11]}]}`,
		"descending PCRs":  `{"sha256":[` + strings.Replace(entry, "[11]", "[12,11]", 1) + `]}`,
		"PCR 99":           `{"sha256":[` + strings.Replace(entry, "[11]", "[99]", 1) + `]}`,
		"no PCR":           `{"sha256":[` + strings.Replace(entry, "[11]", "[]", 1) + `]}`,
		"short digest":     `{"sha256":[` + strings.Replace(entry, digest, "ab", 1) + `]}`,
		"upper case":       `{"sha256":[` + strings.Replace(entry, digest, strings.ToUpper(digest), 1) + `]}`,
		"no signature":     `{"sha256":[` + strings.Replace(entry, "AA==", "", 1) + `]}`,
		"too many":         `{"sha256":[` + strings.Repeat(entry+",", tpmpolicy.MaxSigned) + entry + `]}`,
		"too large":        strings.Repeat(" ", tpmpolicy.MaxFile+1),
		"a long signature": `{"sha256":[` + strings.Replace(entry, "AA==", strings.Repeat("AAAA", tpmpolicy.MaxSignature), 1) + `]}`,
	} {
		if _, err := sigfile.Parse([]byte(text)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzWhatParsesEncodesToTheSame(f *testing.F) {
	digest := strings.Repeat("ab", 32)
	f.Add([]byte(`{"sha256":[{"pcrs":[11,12],"pkfp":"` + digest + `","pol":"` + digest + `","sig":"AAECAw=="}]}`))
	f.Add([]byte(`{"sha1":1,"sha256":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := sigfile.Parse(data)
		if err != nil {
			return
		}
		again, err := sigfile.Encode(list)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := sigfile.Parse(again)
		if err != nil || len(twice) != len(list) {
			t.Fatalf("%d entries, then %d: %v", len(list), len(twice), err)
		}
		for i := range list {
			if list[i].Policy != twice[i].Policy || !bytes.Equal(list[i].Signature, twice[i].Signature) {
				t.Fatalf("entry %d differs", i)
			}
		}
	})
}
