package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// leave writes an NV index as a maker does before the machine is sold; nil data
// leaves it unwritten.
func leave(t *testing.T, raw transport.TPM, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	must(tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(max(len(data), 8)),
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
	})}.Execute(raw))(t)
	for at := 0; at < len(data); at += 512 {
		public := must(tpm2.NVReadPublic{NVIndex: index}.Execute(raw))(t)
		must(tpm2.NVWrite{
			AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: data[at:min(at+512, len(data))]}, Offset: uint16(at),
		}.Execute(raw))(t)
	}
}

// made is the primary key of the endorsement hierarchy that a template gives.
func made(t *testing.T, raw transport.TPM, template tpm2.TPMTPublic) (public tpm2.TPMTPublic, certificate []byte) {
	t.Helper()
	rsp := must(tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(raw))(t)
	must(tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(raw))(t)
	area := must(rsp.OutPublic.Contents())(t)
	key := must(tpm2.Pub(*area))(t)
	ca := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	paper := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(4e9, 0)}
	return *area, must(x509.CreateCertificate(rand.Reader, paper, paper, key, ca))(t)
}

// own is a template that is not the TCG's: with noDA, and another unique field.
func own(kind string, nonce []byte) tpm2.TPMTPublic {
	template := tpm2.ECCEKTemplate
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: append(bytes.Clone(nonce), make([]byte, 32-len(nonce))...)},
		Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
	})
	if kind == "rsa2048" {
		template = tpm2.RSAEKTemplate
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: append(bytes.Clone(nonce), make([]byte, 256-len(nonce))...)})
	}
	template.ObjectAttributes.NoDA = true
	return template
}

// without is a template with an empty unique field, as it is in the NV index when the
// nonce is in another.
func without(template tpm2.TPMTPublic) []byte {
	if template.Type == tpm2.TPMAlgRSA {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	} else {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	}
	return tpm2.Marshal(template)
}

// TestEKIsMadeByTheTemplateOfTheMaker, wherever the profile lets him leave one: it is
// the key of the certificate, and it activates. (tpm2_createek 5.4 is no witness: it
// takes the address of the nonce for the nonce.)
func TestEKIsMadeByTheTemplateOfTheMaker(t *testing.T) {
	nonce := []byte("a nonce of the maker")
	for name, c := range map[string]struct {
		kind                         string
		certificate, template, nonce tpm2.TPMHandle
	}{
		"RSA, low range":               {"rsa2048", 0x01c00002, 0x01c00004, 0x01c00003},
		"P-256, low range":             {"ecc-p256", 0x01c0000a, 0x01c0000c, 0x01c0000b},
		"P-256, low, no nonce":         {"ecc-p256", 0x01c0000a, 0x01c0000c, 0},
		"P-256, high range":            {"ecc-p256", 0x01c00014, 0x01c00015, 0},
		"P-256, the maker's own":       {"ecc-p256", 0x01c07000, 0x01c07001, 0},
		"RSA without certificate":      {"rsa2048", 0, 0x01c00004, 0x01c00003},
		"P-256, the end of high range": {"ecc-p256", 0x01c07ffe, 0x01c07fff, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, power := tpmtest.Start(t)
			raw := dial(t, power)
			template := own(c.kind, nonce)
			area, certificate := made(t, raw, template)
			if c.nonce != 0 {
				leave(t, raw, c.nonce, nonce)
				leave(t, raw, c.template, without(template))
			} else {
				leave(t, raw, c.template, append(tpm2.Marshal(template), make([]byte, 20)...)) // padded
			}
			if c.certificate != 0 {
				leave(t, raw, c.certificate, certificate)
			} else {
				certificate = nil
			}
			chip, _ := connect(t, power)
			ek := must(chip.EK(t.Context(), ""))(t)
			if ek.Kind != c.kind || !bytes.Equal(ek.Certificate, certificate) || !bytes.Equal(ek.Public, tpm2.Marshal(area)) {
				t.Fatalf("%s, certificate of %d bytes, another key", ek.Kind, len(ek.Certificate))
			}
			// Another connection, which has not looked for the EK.
			chip, _ = connect(t, power)
			ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
			blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
			if got := must(chip.Activate(t.Context(), ek, ak, blob, secret))(t); string(got) != "ticket" {
				t.Errorf("recovered %q", got)
			}
		})
	}
}

// TestTemplateThatMakesNoEKIsSaid: a place that the maker filled with something else
// gives an error that names it, not another identity.
func TestTemplateThatMakesNoEKIsSaid(t *testing.T) {
	signs, free, other := own("rsa2048", nil), own("rsa2048", nil), own("ecc-p256", nil)
	signs.ObjectAttributes.SignEncrypt = true
	free.ObjectAttributes.FixedTPM = false
	for name, data := range map[string][]byte{
		"garbage": bytes.Repeat([]byte{0xff}, 100), "a key that signs": tpm2.Marshal(signs), "a key that could leave": tpm2.Marshal(free), "another kind": tpm2.Marshal(other),
	} {
		_, power := tpmtest.Start(t)
		leave(t, dial(t, power), 0x01c00004, data)
		chip, _ := connect(t, power)
		if _, err := chip.EK(t.Context(), ""); !errors.Is(err, tpm.ErrDamaged) || !strings.Contains(err.Error(), "0x1c00004") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := chip.EK(t.Context(), "ecc-p256"); err != nil {
			t.Errorf("%s: the other EK: %v", name, err)
		}
	}
}

// TestTemplateOfAnotherKeyThanTheCertificateIsSaid, for whoever has the owner's
// authority can define such an index where there is none.
func TestTemplateOfAnotherKeyThanTheCertificateIsSaid(t *testing.T) {
	_, power := tpmtest.Start(t)
	raw := dial(t, power)
	_, certificate := made(t, raw, tpm2.ECCEKTemplate)
	leave(t, raw, 0x01c0000a, certificate)
	leave(t, raw, 0x01c0000c, tpm2.Marshal(own("ecc-p256", []byte("x"))))
	chip, _ := connect(t, power)
	if _, err := chip.EK(t.Context(), ""); !errors.Is(err, tpm.ErrDamaged) {
		t.Error(err)
	}
}

// TestPlacesThatSayNothingChangeNothing: indexes that were never written, a nonce
// without a template, a certificate of a kind that is not used.
func TestPlacesThatSayNothingChangeNothing(t *testing.T) {
	_, power := tpmtest.Start(t)
	raw := dial(t, power)
	want, _ := made(t, raw, tpm2.RSAEKTemplate)
	leave(t, raw, 0x01c00002, nil)
	leave(t, raw, 0x01c00003, []byte("a nonce"))
	leave(t, raw, 0x01c0000c, nil)
	leave(t, raw, 0x01c00018, []byte("P-521"))
	leave(t, raw, 0x01c00019, []byte("its template"))
	chip, _ := connect(t, power)
	if ek := must(chip.EK(t.Context(), ""))(t); !bytes.Equal(ek.Public, tpm2.Marshal(want)) || ek.Certificate != nil {
		t.Errorf("another key: %s", ek.Kind)
	}
}

// TestEKThatAlsoSignsIsSaid: swtpm_setup can make such a chip, with its template.
func TestEKThatAlsoSignsIsSaid(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("swtpm_setup"); err != nil {
		t.Skip(err)
	}
	machine := must(tpmtest.Manufacture(t.Context(), t.TempDir(), "--allow-signing", "--decryption"))(t)
	chip, _ := connect(t, tpmtest.PowerOn(t, machine))
	ek, err := chip.EK(t.Context(), "rsa2048")
	if !errors.Is(err, tpm.ErrDamaged) {
		t.Errorf("%+v %v", ek, err)
	}
}
