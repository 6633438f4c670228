package core

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// FuzzSplitDER: the parts are a prefix of the input, in order, each one sequence.
func FuzzSplitDER(f *testing.F) {
	f.Add([]byte{0x30, 0x00, 0x30, 0x01, 0x05, 0xff, 0xff})
	f.Add([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		parts := splitDER(data)
		if joined := bytes.Join(parts, nil); !bytes.HasPrefix(data, joined) {
			t.Fatal("parts are not a prefix")
		}
		for _, part := range parts {
			if again := splitDER(part); len(again) != 1 || !bytes.Equal(again[0], part) {
				t.Fatalf("%x is not one sequence", part)
			}
		}
	})
}

// TestPaddedCertificateIsCutToItsLength: makers fill the index with 0x00 or 0xff.
func TestPaddedCertificateIsCutToItsLength(t *testing.T) {
	der := certificateFor(t, nil)
	for _, padding := range [][]byte{nil, make([]byte, 500), bytes.Repeat([]byte{0xff}, 500)} {
		if parts := splitDER(append(bytes.Clone(der), padding...)); len(parts) != 1 || !bytes.Equal(parts[0], der) {
			t.Fatalf("padding %x: %d parts", padding[:min(len(padding), 1)], len(parts))
		}
	}
	for _, junk := range [][]byte{nil, {0}, {0x30}, {0x30, 0x82, 0xff, 0xff}, bytes.Repeat([]byte{0xff}, 100)} {
		if parts := splitDER(junk); len(parts) != 0 {
			t.Fatalf("%x: %d parts", junk, len(parts))
		}
	}
}

// TestCertificateWithOAEPKeyIsOfItsKey: several makers certify RSA keys as
// id-RSAES-OAEP (RFC 4055), which crypto/x509 does not know.
func TestCertificateWithOAEPKeyIsOfItsKey(t *testing.T) {
	keys := make([]*rsa.PrivateKey, 2)
	areas := make([]tpm2.TPMTPublic, 2)
	for i := range keys {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
		areas[i] = tpm2.RSAEKTemplate
		areas[i].Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: keys[i].N.Bytes()})
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(4e9, 0)}
	plain, err := x509.CreateCertificate(rand.Reader, template, template, keys[0].Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	identifier := []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01}
	oaep := bytes.Replace(plain, identifier, append(bytes.Clone(identifier[:10]), 0x07), 1)
	if parsed, err := x509.ParseCertificate(oaep); err != nil || parsed.PublicKey != nil {
		t.Fatalf("not the certificate that it should be: %v", err)
	}
	for name, der := range map[string][]byte{"rsaEncryption": plain, "id-RSAES-OAEP": oaep} {
		if !certifies(der, areas[0]) {
			t.Errorf("%s: not of its key", name)
		}
		if certifies(der, areas[1]) {
			t.Errorf("%s: of another key", name)
		}
	}
}

// TestCertifiedPointWithLeadingZerosKeepsThem: coordinates are 32 bytes long.
func TestCertifiedPointWithLeadingZerosKeepsThem(t *testing.T) {
	for {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if point[1] != 0 {
			continue
		}
		area, err := certifiedPublic(tpm2.ECCEKTemplate, certificateFor(t, key))
		if err != nil {
			t.Fatal(err)
		}
		ecc, err := area.Unique.ECC()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ecc.X.Buffer, point[1:33]) || !bytes.Equal(ecc.Y.Buffer, point[33:]) {
			t.Fatalf("%x became %x %x", point[1:], ecc.X.Buffer, ecc.Y.Buffer)
		}
		return
	}
}

func certificateFor(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(4e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
