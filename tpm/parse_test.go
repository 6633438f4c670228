package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// exampleKeyFile is a well-formed file; no chip can load it.
func exampleKeyFile(t testing.TB) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	area := signingTemplate(Operational)
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
	})
	file := keyFile{parent: tpm2.TPMRHOwner, public: area, private: tpm2.TPM2BPrivate{Buffer: []byte("wrapped")}}
	data, err := file.encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// FuzzKeyFile: what is accepted is written again as a file that means the same, and
// is always the public area of a key that can't leave its chip.
func FuzzKeyFile(f *testing.F) {
	good := exampleKeyFile(f)
	f.Add(good)
	f.Add(good[bytes.Index(good, []byte("-----")):])
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseKeyFile(data)
		if err != nil {
			return
		}
		if a := file.public.ObjectAttributes; !a.FixedTPM || !a.FixedParent || !a.NoDA {
			t.Fatalf("accepted attributes %+v", a)
		}
		encoded, err := file.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseKeyFile(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if again.parent != file.parent || !bytes.Equal(again.private.Buffer, file.private.Buffer) ||
			!bytes.Equal(tpm2.Marshal(again.public), tpm2.Marshal(file.public)) {
			t.Fatal("the file changed its meaning")
		}
	})
}

// TestKeyThatCouldLeaveItsChipIsRefused: a planted file with a software key.
func TestKeyThatCouldLeaveItsChipIsRefused(t *testing.T) {
	file, err := parseKeyFile(exampleKeyFile(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, weaken := range map[string]func(*tpm2.TPMAObject){
		"not fixed to the chip": func(a *tpm2.TPMAObject) { a.FixedTPM = false },
		"not fixed to parent":   func(a *tpm2.TPMAObject) { a.FixedParent = false },
		"imported":              func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false },
		"counts for lockout":    func(a *tpm2.TPMAObject) { a.NoDA = false },
	} {
		weak := file
		weaken(&weak.public.ObjectAttributes)
		data, err := weak.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseKeyFile(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// cannedChip answers each command with the next piece of a script.
type cannedChip struct{ script []byte }

func (c *cannedChip) Send([]byte) ([]byte, error) {
	if len(c.script) == 0 {
		return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1}, nil
	}
	n := min(int(c.script[0])+1, len(c.script))
	piece := c.script[1:n]
	c.script = c.script[n:]
	tag := byte(1 + len(piece)%2)
	return append([]byte{0x80, tag, 0, 0, 0, byte(10 + len(piece)), 0, 0, 0, 0}, piece...), nil
}

// FuzzResponses: whatever a chip answers, each operation ends with a result or an
// error, and the process lives.
func FuzzResponses(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{9, 0, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Add(bytes.Repeat([]byte{40}, 300))
	f.Fuzz(func(t *testing.T, script []byte) {
		for _, call := range []func(*TPM) error{
			func(c *TPM) error { _, err := c.EK(t.Context(), ""); return err },
			func(c *TPM) error { _, err := c.CreateKey(t.Context(), AK); return err },
			func(c *TPM) error { _, err := c.ReadPCRs(t.Context(), []int{0, 9}); return err },
			func(c *TPM) error { _, err := c.Info(t.Context()); return err },
		} {
			chip := New(&cannedChip{script: script})
			_ = call(chip)
			if err := chip.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
