package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

func someChain(t testing.TB, n int) (chain []*x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, cert)
	}
	return chain
}

// Whatever lies in the file, reading it gives an error or a pair that writes and
// reads back as itself.
func FuzzStoredPair(f *testing.F) {
	good := pair{key: []byte("a key\n"), chain: someChain(f, 2)}.encode()
	for _, seed := range [][]byte{nil, good, good[:len(good)/2], good[20:], []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePair(data)
		if err != nil {
			return
		}
		again, err := parsePair(p.encode())
		if err != nil || !bytes.Equal(again.key, p.key) || len(again.chain) != len(p.chain) {
			t.Fatalf("a pair of %d and %d bytes came back as %d and %d: %v", len(p.key), len(p.chain), len(again.key), len(again.chain), err)
		}
	})
}

func TestDamagedEKRecordIsChosenAgain(t *testing.T) {
	s := store{fs: &fsx.FS{}, dir: t.TempDir()}
	for name, text := range map[string]string{"garbage": "{", "another format": `{"v":2,"kind":"x","name":"AA=="}`, "empty": `{"v":1,"kind":"","name":""}`} {
		if err := os.WriteFile(s.path(ekFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := s.readEK(); r != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}
