package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/ektemplate"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func TestCredentialOpensOnlyInTheTPMWithThisEKAndAK(t *testing.T) {
	c := startChip(t, false)
	secret := bytes.Repeat([]byte{7}, 32)
	ak := c.primary(t, tpm2.TPMRHOwner, signingTemplate(true))
	for n, template := range ekTemplates() {
		t.Run(fmt.Sprintf("template %d", n), func(t *testing.T) {
			ek := c.ek(t, template)
			defer c.flush(t, ek)
			if err := CheckEK(ek.public); err != nil {
				t.Fatal(err)
			}
			name, err := Name(ak.public)
			if err != nil || !bytes.Equal(name, ak.Name.Buffer) {
				t.Fatalf("name %x, %v; the TPM says %x", name, err, ak.Name.Buffer)
			}
			if name, err := Name(ek.public); err != nil || !bytes.Equal(name, ek.Name.Buffer) {
				t.Errorf("name of the EK %x, %v; the TPM says %x", name, err, ek.Name.Buffer)
			}
			blob, encrypted, err := MakeCredential(ek.public, name, secret)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.activate(t, ek, ak, blob, encrypted)
			if err != nil || !bytes.Equal(got, secret) {
				t.Errorf("recovered %x, %v", got, err)
			}
			other := bytes.Clone(name)
			other[5] ^= 1
			if blob, encrypted, err = MakeCredential(ek.public, other, secret); err != nil {
				t.Fatal(err)
			}
			if _, err := c.activate(t, ek, ak, blob, encrypted); err == nil {
				t.Error("a credential for another AK was opened")
			}
		})
	}
}

// A nonce gives another key, and no other description of it.
func TestEKOfTheMakersNonceIsOneOfTheTCGs(t *testing.T) {
	c := startChip(t, false)
	template := tpm2.RSAEKTemplate
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: append([]byte("a nonce"), make([]byte, 249)...)})
	usual := c.ek(t, tpm2.RSAEKTemplate)
	c.flush(t, usual)
	ek := c.ek(t, template)
	if err := CheckEK(ek.public); err != nil || bytes.Equal(ek.public, usual.public) {
		t.Errorf("%v, the usual key: %t", err, bytes.Equal(ek.public, usual.public))
	}
}

func TestOneTPMHasOneIdentity(t *testing.T) {
	c := startChip(t, false)
	ek := c.ek(t, tpm2.RSAEKTemplate)
	alter := func(f func(p *tpm2.TPMTPublic)) []byte {
		p, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.public)
		if err != nil {
			t.Fatal(err)
		}
		f(p)
		return tpm2.Marshal(p)
	}
	for name, public := range map[string][]byte{
		"another policy":    alter(func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = bytes.Repeat([]byte{1}, 32) }),
		"another attribute": alter(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.NoDA = true }),
		"padded modulus": alter(func(p *tpm2.TPMTPublic) {
			n, err := p.Unique.RSA()
			if err != nil {
				t.Fatal(err)
			}
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: append([]byte{0}, n.Buffer...)})
		}),
		"trailing bytes": append(bytes.Clone(ek.public), 0), "truncated": ek.public[:len(ek.public)-1], "nothing": nil,
		"a signing key": c.primary(t, tpm2.TPMRHOwner, signingTemplate(true)).public,
	} {
		if err := CheckEK(public); err == nil {
			t.Errorf("%s: accepted as an EK", name)
		}
		if _, _, err := MakeCredential(public, ek.Name.Buffer, []byte("secret")); err == nil {
			t.Errorf("%s: a credential was made", name)
		}
	}
}

func TestOperationalKeyIsProvenToLiveInTheTPM(t *testing.T) {
	c := startChip(t, false)
	ak := c.primary(t, tpm2.TPMRHOwner, signingTemplate(true))
	template := signingTemplate(false)
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{1}}})
	key := c.primary(t, tpm2.TPMRHOwner, template)
	qualifying := bytes.Repeat([]byte{9}, 32)
	info, sig := c.certify(t, ak, key, qualifying)
	if err := VerifyCertify(ak.public, info, sig, key.public, qualifying); err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	for name, err := range map[string]error{
		"another request":    VerifyCertify(ak.public, info, sig, key.public, flip(qualifying, 0)),
		"altered info":       VerifyCertify(ak.public, flip(info, len(info)-1), sig, key.public, qualifying),
		"altered signature":  VerifyCertify(ak.public, info, flip(sig, len(sig)-1), key.public, qualifying),
		"another key":        VerifyCertify(ak.public, info, sig, ak.public, qualifying),
		"another AK":         VerifyCertify(key.public, info, sig, key.public, qualifying),
		"trailing info":      VerifyCertify(ak.public, append(bytes.Clone(info), 0), sig, key.public, qualifying),
		"trailing signature": VerifyCertify(ak.public, info, append(bytes.Clone(sig), 0), key.public, qualifying),
		"nothing":            VerifyCertify(nil, nil, nil, nil, nil),
	} {
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	selfInfo, selfSig := c.certify(t, ak, ak, qualifying)
	if err := VerifyCertify(ak.public, selfInfo, selfSig, ak.public, qualifying); err == nil || !strings.Contains(err.Error(), "restricted") {
		t.Errorf("the AK as an operational key: %v", err)
	}
}

// softKey is a public area whose private half the attacker has.
func softKey(t *testing.T, template tpm2.TPMTPublic) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
	})
	return key, tpm2.Marshal(template)
}

func softSign(t *testing.T, key *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.FillBytes(make([]byte, 32))}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.FillBytes(make([]byte, 32))},
		}),
	})
}

// TestAttestationOfAnotherKindIsNoCertify signs each attempt properly, so that
// nothing but the check under test can refuse it.
func TestAttestationOfAnotherKindIsNoCertify(t *testing.T) {
	aks, akPublic := softKey(t, signingTemplate(true))
	_, public := softKey(t, signingTemplate(false))
	name, err := Name(public)
	if err != nil {
		t.Fatal(err)
	}
	certify := tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify, ExtraData: tpm2.TPM2BData{Buffer: []byte("q")},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: name}}),
	}
	try := func(att tpm2.TPMSAttest, ak, key []byte) error {
		info := tpm2.Marshal(att)
		return VerifyCertify(ak, info, softSign(t, aks, info), key, []byte("q"))
	}
	if err := try(certify, akPublic, public); err != nil {
		t.Fatal(err)
	}
	noMagic, quote, creation := certify, certify, certify
	noMagic.Magic = 0x12345678
	quote.Type = tpm2.TPMSTAttestQuote
	quote.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRDigest: tpm2.TPM2BDigest{Buffer: name}})
	creation.Type = tpm2.TPMSTAttestCreation
	creation.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, &tpm2.TPMSCreationInfo{ObjectName: tpm2.TPM2BName{Buffer: name}})
	for what, att := range map[string]tpm2.TPMSAttest{"no magic": noMagic, "a quote": quote, "creation data": creation} {
		if err := try(att, akPublic, public); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	point := tpm2.TPMTPublic{}
	if p, err := parsePublic(akPublic); err == nil {
		point = *p
	}
	for what, f := range map[string]func(p *tpm2.TPMTPublic){
		"not restricted": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false },
		"imported":       func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false },
		"not fixed":      func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false },
		"movable":        func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false },
		"decrypting":     func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true },
		"SHA-1 name":     func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA1 },
		"no scheme": func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		},
	} {
		altered := point
		f(&altered)
		if err := try(certify, tpm2.Marshal(altered), public); err == nil || !strings.HasPrefix(err.Error(), "attestation key") {
			t.Errorf("an AK that is %s: %v", what, err)
		}
	}
}

func TestKeyOfTheRequestIsTheCertifiedOne(t *testing.T) {
	key, public := softKey(t, signingTemplate(false))
	other, _ := softKey(t, signingTemplate(false))
	if err := SameKey(public, key.Public()); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{"another": SameKey(public, other.Public()), "none": SameKey(public, nil), "no TPM key": SameKey([]byte{0, 1}, key.Public())} {
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestEKCertificateOfARealChip(t *testing.T) {
	c := startChip(t, true)
	now := time.Now()
	bundle := t.TempDir()
	for _, name := range []string{"issuer.pem", "swtpm-localca-rootca-cert.pem"} {
		data, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bundle, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots, err := LoadRoots(bundle)
	if err != nil {
		t.Fatal(err)
	}
	rsaEK, eccEK := c.ek(t, tpm2.RSAEKTemplate), c.ek(t, ektemplate.H3())
	rsaCert, eccCert := c.readNV(t, 0x01c00002), c.readNV(t, 0x01c00016)
	for name, err := range map[string]error{
		"RSA 2048":     VerifyEK(rsaCert, nil, roots, rsaEK.public, now),
		"P-384":        VerifyEK(eccCert, nil, roots, eccEK.public, now),
		"padded, 0x00": VerifyEK(append(bytes.Clone(rsaCert), make([]byte, 300)...), nil, roots, rsaEK.public, now),
		"padded, 0xff": VerifyEK(append(bytes.Clone(rsaCert), bytes.Repeat([]byte{0xff}, 300)...), nil, roots, rsaEK.public, now),
		"odd chain":    VerifyEK(rsaCert, [][]byte{nil, {1, 2, 3}, rsaCert}, roots, rsaEK.public, now),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	flipped := bytes.Clone(rsaCert)
	flipped[len(flipped)-1] ^= 1
	for name, err := range map[string]error{
		"another TPM's key":     VerifyEK(eccCert, nil, roots, rsaEK.public, now),
		"an unknown maker":      VerifyEK(rsaCert, nil, x509.NewCertPool(), rsaEK.public, now),
		"before it was made":    VerifyEK(rsaCert, nil, roots, rsaEK.public, now.Add(-24*365*time.Hour)),
		"altered":               VerifyEK(flipped, nil, roots, rsaEK.public, now),
		"bytes behind it":       VerifyEK(append(bytes.Clone(rsaCert), 1, 2), nil, roots, rsaEK.public, now),
		"nothing":               VerifyEK(nil, nil, roots, rsaEK.public, now),
		"the maker's own":       VerifyEK(issuerOf(t, c.dir), nil, roots, rsaEK.public, now),
		"a chain from the chip": VerifyEK(rsaCert, [][]byte{issuerOf(t, c.dir)}, x509.NewCertPool(), rsaEK.public, now),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := LoadRoots(t.TempDir()); err == nil {
		t.Error("an empty folder of makers was accepted")
	}
}

func issuerOf(t *testing.T, dir string) []byte {
	t.Helper()
	pool := filepath.Join(dir, "issuer.pem")
	data, err := os.ReadFile(pool)
	if err != nil {
		t.Fatal(err)
	}
	return pemBytes(t, data)
}

// TestEKCertificateIsForAnEK: the makers' authorities issue other certificates too.
func TestEKCertificateIsForAnEK(t *testing.T) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	maker := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	makerDER, err := x509.CreateCertificate(rand.Reader, maker, maker, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	makerCert, err := x509.ParseCertificate(makerDER)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(makerCert)
	ekKey, ekPublic := softKey(t, tpm2.ECCEKTemplate)
	ekUsage := asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	for _, c := range []struct {
		name string
		edit func(c *x509.Certificate)
		ok   bool
	}{
		{"no usage", func(*x509.Certificate) {}, true},
		{"EK usage", func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{ekUsage} }, true},
		{"EK among others", func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = []asn1.ObjectIdentifier{ekUsage}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}, true},
		{"client", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, false},
		{"AK usage", func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} }, false},
		{"a CA", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, false},
		{"expired", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }, false},
	} {
		template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: now.Add(time.Hour)}
		c.edit(template)
		der, err := x509.CreateCertificate(rand.Reader, template, makerCert, ekKey.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyEK(der, nil, roots, ekPublic, now); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzHostileTPMStructuresNeverPanic(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	for _, template := range append(ekTemplates(), signingTemplate(true), signingTemplate(false)) {
		f.Add(tpm2.Marshal(template), der, tpm2.Marshal(tpm2.TPMSAttest{
			Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify, Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{}),
		}))
	}
	restricted, err := x509.OIDFromInts([]uint64{2, 23, 133, 11, 1, 3})
	if err != nil {
		f.Fatal(err)
	}
	iak, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Policies: []x509.OID{restricted}}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tpm2.Marshal(signingTemplate(true)), iak, []byte("statement"))
	roots := x509.NewCertPool()
	f.Fuzz(func(t *testing.T, public, cert, info []byte) {
		name, err := Name(public)
		if err == nil && len(name) < 34 {
			t.Fatalf("name %x", name)
		}
		if CheckEK(public) == nil && err != nil {
			t.Fatal("an EK without a name")
		}
		_, _, _ = MakeCredential(public, name, info)
		_ = SameKey(public, key.Public())
		if VerifyEK(cert, [][]byte{cert}, roots, public, time.Unix(0, 0)) == nil {
			t.Fatal("vouched for by nobody")
		}
		if _, err := VerifyIAK(wire.IAK{Certificate: cert, Certify: info, Signature: public}, roots, public, info, time.Unix(0, 0)); err == nil {
			t.Fatal("a machine's maker that nobody knows vouches")
		}
		if VerifyCertify(public, info, cert, public, nil) == nil {
			t.Fatal("a key is restricted and is not")
		}
		_, _ = certifiedName(info, nil)
		_ = verifySignature(&key.PublicKey, cert, info)
	})
}

func pemBytes(t *testing.T, data []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}
