package tuf

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
)

// key is a public key (section 4.2). One of a kind that we don't know is kept
// without public: it verifies nothing, but its file may be good for others.
type key struct {
	public crypto.PublicKey
	// material is the key itself, whatever id and keytype it goes by: one key
	// under two ids is one signer.
	material string
}

func readKey(f fields) key {
	kind, scheme, value := f.text("keytype"), f.text("scheme"), f.object("keyval").text("public")
	var public crypto.PublicKey
	var err error
	switch kind + " " + scheme {
	case "ed25519 ed25519":
		public, err = parseEd25519(value)
	case "ecdsa ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256 ecdsa-sha2-nistp256", "rsa rsassa-pss-sha256":
		public, err = parsePEM(value, kind == "rsa")
	default:
		return key{}
	}
	var material []byte
	if err == nil {
		material, err = x509.MarshalPKIXPublicKey(public)
	}
	if err != nil {
		f.fault("keyval", "is no %s key: %v", scheme, err)
		return key{}
	}
	return key{public: public, material: string(material)}
}

// parseEd25519 checks the length: another one makes crypto/ed25519 panic.
func parseEd25519(value string) (ed25519.PublicKey, error) {
	raw, err := hex.DecodeString(value)
	if err == nil && len(raw) != ed25519.PublicKeySize {
		err = errors.New("wrong length")
	}
	return raw, err
}

// parsePEM reads an RSA key of a tolerable size, or else a key on curve P-256.
func parsePEM(value string, wantRSA bool) (crypto.PublicKey, error) {
	block, rest := pem.Decode([]byte(value))
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
		return nil, errors.New("not one PEM block PUBLIC KEY")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	switch k := public.(type) {
	case *rsa.PublicKey:
		if wantRSA && k.N.BitLen() >= MinRSABits && k.N.BitLen() <= MaxRSABits {
			return k, nil
		}
	case *ecdsa.PublicKey:
		if !wantRSA && k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, errors.New("wrong kind or size")
}

// verifies says whether signature, in hex, is the key's over message (4.2.1).
func (k key) verifies(message []byte, signature string) bool {
	sig, err := hex.DecodeString(signature)
	if err != nil {
		return false
	}
	digest := sha256.Sum256(message)
	switch public := k.public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, message, sig)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, digest[:], sig)
	case *rsa.PublicKey:
		return rsa.VerifyPSS(public, crypto.SHA256, digest[:], sig, nil) == nil // any salt length
	}
	return false
}
