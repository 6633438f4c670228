package devid_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"log"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/devid"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// maker is the machine's maker, who has the chip before its owner.
type maker struct {
	t   *testing.T
	raw transport.TPM
	ca  *ecdsa.PrivateKey
}

func newMaker(t *testing.T) (*maker, *tpm.TPM) {
	t.Helper()
	_, power := tpmtest.Start(t)
	conn, err := net.Dial("unix", power.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	chip, err := tpm.Open(t.Context(), "unix:"+power.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = chip.Close() })
	return &maker{t, transport.FromReadWriter(conn), ca}, chip
}

// key leaves a key at a persistent handle: an IAK if it is restricted.
func (m *maker) key(at tpm2.TPMHandle, restricted bool) crypto.PublicKey {
	m.t.Helper()
	template := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: restricted, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{byte(at)}}}),
	}
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(m.raw)
	if err != nil {
		m.t.Fatal(err)
	}
	object := tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}
	if _, err := (tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &object, PersistentHandle: at}).Execute(m.raw); err != nil {
		m.t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: made.ObjectHandle}).Execute(m.raw); err != nil {
		m.t.Fatal(err)
	}
	area, err := made.OutPublic.Contents()
	if err != nil {
		m.t.Fatal(err)
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		m.t.Fatal(err)
	}
	return key
}

func (m *maker) certify(key crypto.PublicKey) []byte {
	m.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a machine"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, m.ca)
	if err != nil {
		m.t.Fatal(err)
	}
	return der
}

// write leaves data in an index of size bytes; nil data leaves it unwritten.
func (m *maker) write(index tpm2.TPMHandle, size int, data []byte, readable bool) {
	m.t.Helper()
	area := tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(size),
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: readable, NoDA: true, NT: tpm2.TPMNTOrdinary},
	}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(area)}).Execute(m.raw); err != nil {
		m.t.Fatal(err)
	}
	for at := 0; at < len(data); at += 512 {
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(m.raw)
		if err != nil {
			m.t.Fatal(err)
		}
		_, err = tpm2.NVWrite{
			AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: data[at:min(at+512, len(data))]}, Offset: uint16(at),
		}.Execute(m.raw)
		if err != nil {
			m.t.Fatal(err)
		}
	}
}

// TestIdentitiesOfTheMakerAreFound with their certificates, however these are padded;
// what else is in the ranges is passed over, and a certificate without key is told.
func TestIdentitiesOfTheMakerAreFound(t *testing.T) {
	m, chip := newMaker(t)
	if none, err := devid.Find(t.Context(), chip); err != nil || len(none) != 0 {
		t.Fatalf("an empty chip has %v, %v", none, err)
	}
	idevid, iak := m.certify(m.key(0x81020000, false)), m.certify(m.key(0x81020001, true))
	m.key(0x81020007, false) // without certificate
	elsewhere := m.certify(m.ca.Public())
	m.write(0x01c90000, len(idevid)+600, append(bytes.Clone(idevid), bytes.Repeat([]byte{0xff}, 600)...), true)
	m.write(0x01c90011, 34, bytes.Repeat([]byte{7}, 34), true) // a policy
	m.write(0x01c90018, len(iak), iak, true)
	m.write(0x01c90019, 100, nil, true)
	m.write(0x01c90020, len(elsewhere), elsewhere, true)
	m.write(0x01c90021, len(elsewhere), elsewhere, false)

	found, err := devid.Find(t.Context(), chip)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		role          devid.Role
		index, handle uint32
		der           []byte
	}{
		{devid.RoleIDevID, 0x01c90000, 0x81020000, idevid},
		{devid.RoleIAK, 0x01c90018, 0x81020001, iak},
		{devid.RoleIDevID, 0, 0x81020007, nil},
		{devid.RoleUnknown, 0x01c90020, 0, elsewhere},
	}
	if len(found) != len(want) {
		t.Fatalf("found %d: %+v", len(found), found)
	}
	for i, w := range want {
		f := found[i]
		if f.Role != w.role || f.Index != w.index || f.Handle != w.handle || !bytes.Equal(f.Certificate, w.der) || (f.Public == nil) != (w.handle == 0) {
			t.Errorf("%d: %s, certificate of %d bytes at %#x, key at %#x", i, f.Role, len(f.Certificate), f.Index, f.Handle)
		}
	}
}

// A maker's identity is used once, to introduce the device; then it has its own.
func ExampleFind() {
	ctx := context.Background()
	chip, err := tpm.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		log.Fatal(err)
	}
	defer chip.Close()
	found, err := devid.Find(ctx, chip)
	if err != nil {
		log.Fatal(err)
	}
	for _, identity := range found {
		log.Printf("%s at %#x, certificate of %d bytes", identity.Role, identity.Handle, len(identity.Certificate))
	}
}
