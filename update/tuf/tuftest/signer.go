package tuftest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Kinds lists the kinds of key that NewSigner makes.
func Kinds() []string { return []string{"ed25519", "ecdsa", "rsa"} }

// Signer is a key pair as go-tuf has it.
type Signer struct {
	Key    *metadata.Key
	ID     string
	signer signature.Signer
}

// NewSigner makes a key pair of one of Kinds.
func NewSigner(tb testing.TB, kind string) Signer {
	tb.Helper()
	var s Signer
	var err error
	switch kind {
	case "ed25519":
		var private ed25519.PrivateKey
		_, private, err = ed25519.GenerateKey(rand.Reader)
		must(tb, err)
		s.signer, err = signature.LoadED25519Signer(private)
	case "ecdsa":
		var private *ecdsa.PrivateKey
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(tb, err)
		s.signer, err = signature.LoadECDSASigner(private, crypto.SHA256)
	case "rsa":
		var private *rsa.PrivateKey
		private, err = rsa.GenerateKey(rand.Reader, 2048)
		must(tb, err)
		s.signer, err = signature.LoadRSAPSSSigner(private, crypto.SHA256, &rsa.PSSOptions{Hash: crypto.SHA256})
	default:
		tb.Fatalf("no keys of kind %q", kind)
	}
	must(tb, err)
	public, err := s.signer.PublicKey()
	must(tb, err)
	s.Key, err = metadata.KeyFromPublicKey(public)
	must(tb, err)
	s.ID, err = s.Key.ID()
	must(tb, err)
	return s
}

// Sign signs a message that is in canonical form.
func (s Signer) Sign(tb testing.TB, message []byte) []byte {
	tb.Helper()
	sig, err := s.signer.SignMessage(bytes.NewReader(message))
	must(tb, err)
	return sig
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
