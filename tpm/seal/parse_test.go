package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
)

// example is a file as a chip would seal it, but that no chip opens.
func example(t testing.TB) *file {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := Policy{
		Name: "disk", Unit: "vpn.service", Key: key.Public(), Recovery: key.Public(),
		Ref:     tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{11, 12, 13}},
		Counter: Counter{Index: 0x01806777, Name: bytes.Repeat([]byte{1}, 34), Value: 7},
	}
	h := header{
		Format: format, Name: p.Name, Unit: p.Unit, Ref: p.Ref, Counter: p.Counter, PCR7: tpmpolicy.Digest{7},
		Expected: listPCRs(map[int]tpmpolicy.Digest{11: {1}, 12: {2}, 13: {3}}),
		Storage:  storage{Place: uint32(tpm2.TPMRHOwner), Name: bytes.Repeat([]byte{2}, 34)},
	}
	if h.Key, err = tpmpolicy.MarshalKey(p.Key); err != nil {
		t.Fatal(err)
	}
	h.Recovery = h.Key
	policy, _, err := h.digest()
	if err != nil {
		t.Fatal(err)
	}
	f := &file{Header: h, Public: tpm2.Marshal(tpm2.New2B(template(policy))), Private: []byte{0, 1, 9}}
	if err := f.close(make([]byte, keySize), []byte("the secret")); err != nil {
		t.Fatal(err)
	}
	return f
}

func encoded(t testing.TB, f *file) []byte {
	t.Helper()
	data, err := f.encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestPolicyAndHeaderCanNotBeAlteredApart: a file whose words promise another policy
// than the one of its sealed key is not a file.
func TestPolicyAndHeaderCanNotBeAlteredApart(t *testing.T) {
	if _, err := parse(encoded(t, example(t))); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*file){
		"epoch":         func(f *file) { f.Header.Ref.Epoch = 2 },
		"product":       func(f *file) { f.Header.Ref.Product = "core" },
		"counter":       func(f *file) { f.Header.Counter.Value++ },
		"PCR 7":         func(f *file) { f.Header.PCR7[0] ^= 1 },
		"no recovery":   func(f *file) { f.Header.Recovery = nil },
		"key":           func(f *file) { f.Header.Key = example(t).Header.Key },
		"no key":        func(f *file) { f.Header.Key = nil },
		"a boot listed": func(f *file) { f.Header.Literal = []pcrList{f.Header.Expected} },
		"attributes":    func(f *file) { f.Public[9] ^= 1 },
		"format":        func(f *file) { f.Header.Format = 2 },
		"nonce":         func(f *file) { f.Nonce = nil },
		"name":          func(f *file) { f.Header.Name = strings.Repeat("a", MaxName+1) },
		"expected":      func(f *file) { f.Header.Expected = f.Header.Expected[:1] },
		"PCR twice":     func(f *file) { f.Header.Expected = append(f.Header.Expected, f.Header.Expected[2]) },
	} {
		f := example(t)
		change(f)
		if _, err := parse(encoded(t, f)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	f := example(t)
	f.Header.Unit = "ssh.service"
	if _, err := f.open(make([]byte, keySize)); err == nil {
		t.Error("opened with another unit")
	}
	f.Header.Unit = "vpn.service"
	if secret, err := f.open(make([]byte, keySize)); err != nil || string(secret) != "the secret" {
		t.Errorf("%q, %v", secret, err)
	}
}

// FuzzWhatParsesEncodesToTheSame: and its policy is always that of its header.
func FuzzWhatParsesEncodesToTheSame(f *testing.F) {
	f.Add(encoded(f, example(f)))
	literal := example(f)
	literal.Header.Key, literal.Header.Literal = nil, []pcrList{literal.Header.Expected}
	policy, _, err := literal.Header.digest()
	if err != nil {
		f.Fatal(err)
	}
	literal.Public = tpm2.Marshal(tpm2.New2B(template(policy)))
	f.Add(encoded(f, literal))
	f.Fuzz(func(t *testing.T, data []byte) {
		one, err := parse(data)
		if err != nil {
			return
		}
		again := encoded(t, one)
		two, err := parse(again)
		if err != nil {
			t.Fatal(err)
		}
		a, errA := json.Marshal(one)
		b, errB := json.Marshal(two)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Fatalf("%s\n%s", a, b)
		}
		if _, err := RecoveryDigest(data); (err == nil) != (one.Header.Recovery != nil) {
			t.Fatal(err)
		}
	})
}
