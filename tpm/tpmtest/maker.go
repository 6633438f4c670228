package tpmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Where IAK leaves what it makes (TCG Registry of Reserved TPM 2.0 Handles).
const (
	IAKHandle = tpm2.TPMHandle(0x81020001)
	iakIndex  = tpm2.TPMHandle(0x01c90018)
)

// Maker is the maker of machines, with a certificate authority of its own.
type Maker struct {
	key *ecdsa.PrivateKey
	der []byte
}

// NewMaker makes one.
func NewMaker(tb testing.TB) *Maker {
	tb.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(tb)
	paper := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker of machines"}, NotAfter: time.Now().AddDate(30, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return &Maker{key, must(x509.CreateCertificate(rand.Reader, paper, paper, key.Public(), key))(tb)}
}

// PEM is the maker's bundle.
func (m *Maker) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.der})
}

// IAK leaves an attestation key with a certificate in a chip, as the TCG's "TPM 2.0
// Keys for Device Identity and Attestation" says. policies are what the certificate
// says that the maker verified, under 2.23.133.11.1: 1 residency, 2 fixed, 3 restricted.
func (m *Maker) IAK(tb testing.TB, p *Power, policies ...uint64) (certificate []byte) {
	tb.Helper()
	raw := p.Raw()
	rsp := must(tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(iakTemplate())}.Execute(raw))(tb)
	object := tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}
	must(tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &object, PersistentHandle: IAKHandle}.Execute(raw))(tb)
	must(tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(raw))(tb)
	key := must(tpm2.Pub(*must(rsp.OutPublic.Contents())(tb)))(tb)
	paper := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a machine"}, NotAfter: time.Now().AddDate(30, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	for _, policy := range policies {
		paper.Policies = append(paper.Policies, must(x509.OIDFromInts([]uint64{2, 23, 133, 11, 1, policy}))(tb))
	}
	issuer := must(x509.ParseCertificate(m.der))(tb)
	certificate = must(x509.CreateCertificate(rand.Reader, paper, issuer, key, m.key))(tb)
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	must(tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: iakIndex, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(certificate)),
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
	})}.Execute(raw))(tb)
	public := must(tpm2.NVReadPublic{NVIndex: iakIndex}.Execute(raw))(tb)
	must(tpm2.NVWrite{
		AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: iakIndex, Name: public.NVName}, Data: tpm2.TPM2BMaxNVBuffer{Buffer: certificate},
	}.Execute(raw))(tb)
	return certificate
}

// iakTemplate is a restricted signing key that has, as the TCG's, a policy for what
// its administrator may do, and counts failures.
func iakTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, AdminWithPolicy: true, Restricted: true, SignEncrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte("IAK")}}),
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}
