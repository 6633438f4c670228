package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"testing"
)

// vector is one signature of project Wycheproof with what is to be thought of it.
type vector struct {
	ID        int    `json:"tcId"`
	Comment   string `json:"comment"`
	Message   string `json:"msg"`
	Signature string `json:"sig"`
	Result    string `json:"result"`
	key       crypto.PublicKey
}

func wycheproof(t *testing.T, name string) (vectors []vector) {
	t.Helper()
	var file struct {
		Groups []struct {
			Key   string   `json:"publicKeyDer"`
			Tests []vector `json:"tests"`
		} `json:"testGroups"`
	}
	if err := json.Unmarshal(readFile(t, corpus(t), "wycheproof/C2SP-wycheproof/testvectors_v1", name), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		key, err := x509.ParsePKIXPublicKey(unhex(t, group.Key))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range group.Tests {
			v.key = key
			vectors = append(vectors, v)
		}
	}
	return vectors
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// want checks what a path thinks of v. Nothing that is merely acceptable has to pass.
func (v *vector) want(t *testing.T, path string, ok bool) {
	t.Helper()
	if ok && v.Result == "invalid" || !ok && v.Result == "valid" {
		t.Errorf("%s: vector %d (%s) is %s, accepted: %t", path, v.ID, v.Comment, v.Result, ok)
	}
}

// tpmtSignature encodes a signature as a TPM does.
func tpmtSignature(scheme Algorithm, parts ...[]byte) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(scheme))
	out = binary.BigEndian.AppendUint16(out, uint16(AlgSHA256))
	for _, part := range parts {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(part))), part...)
	}
	return out
}

func TestSignaturesOfQuotesAndFilesAreJudgedAsWycheproofSays(t *testing.T) {
	quotes, files := 0, 0
	for _, v := range wycheproof(t, "ecdsa_secp256r1_sha256_test.json") {
		digest, signature := sha256Sum(unhex(t, v.Message)), unhex(t, v.Signature)
		v.want(t, "file", verifyDigest(v.key, crypto.SHA256, digest, signature))
		files++
		// A TPM gives r and s: the vectors about DER alone say nothing of that.
		var numbers struct{ R, S *big.Int }
		rest, err := asn1.Unmarshal(signature, &numbers)
		if err != nil || len(rest) > 0 || numbers.R.Sign() < 0 || numbers.S.Sign() < 0 {
			continue
		}
		if again, err := asn1.Marshal(numbers); err != nil || !bytes.Equal(again, signature) {
			continue
		}
		ak := &attestationKey{scheme: algECDSA, hash: AlgSHA256, public: v.key.(*ecdsa.PublicKey)}
		raw := tpmtSignature(algECDSA, numbers.R.Bytes(), numbers.S.Bytes())
		v.want(t, "quote", ak.verify(digest, raw, crypto.SHA256) == nil)
		quotes++
	}
	for _, v := range wycheproof(t, "rsa_signature_2048_sha256_test.json") {
		digest, signature := sha256Sum(unhex(t, v.Message)), unhex(t, v.Signature)
		v.want(t, "file", verifyDigest(v.key, crypto.SHA256, digest, signature))
		files++
		ak := &attestationKey{scheme: algRSASSA, hash: AlgSHA256, public: v.key.(*rsa.PublicKey)}
		v.want(t, "quote", ak.verify(digest, tpmtSignature(algRSASSA, signature), crypto.SHA256) == nil)
		quotes++
	}
	if files < 700 || quotes < 500 {
		t.Errorf("only %d signatures of files and %d of quotes judged", files, quotes)
	}
}
