package counter

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm/core"
)

// Define makes the counter, or finishes a Define that was cut off. key is the P-256
// key that may raise it; it must be on disk before. owner is the password of the
// owner hierarchy, nil if it has none. The caller stores the Record; while there is
// none, Define may be repeated.
func Define(chip *core.Chip, key *ecdsa.PrivateKey, index uint32, owner []byte) (Record, error) {
	if key == nil {
		return Record{}, &Alarm{Rule: "key", Text: "no key to make a counter for"}
	}
	want, err := public(index, key.Public())
	if err != nil {
		return Record{}, err
	}
	there, err := readPublic(chip, index)
	if err != nil {
		return Record{}, err
	}
	if there == nil {
		if err := define(chip, want, owner); err != nil {
			return Record{}, err
		}
		there = &want
	}
	fresh := *there
	fresh.Attributes.Written = false
	if !bytes.Equal(tpm2.Marshal(fresh), tpm2.Marshal(want)) {
		return Record{}, alarm("foreign", "NV index %#x is taken by something else; choose another", index)
	}
	if !there.Attributes.Written {
		if err := increment(chip, key, *there, 1); err != nil {
			return Record{}, err
		}
	}
	want.Attributes.Written = true
	r, err := Pin(chip, Record{Format: recordFormat, Index: index, Public: tpm2.Marshal(want)})
	if err != nil {
		return Record{}, err
	}
	r.Initial, err = Read(chip, r)
	return r, err
}

func define(chip *core.Chip, area tpm2.TPMSNVPublic, owner []byte) error {
	// The password itself must not cross the bus.
	auth := tpm2.PasswordAuth(nil)
	if len(owner) != 0 {
		auth = tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Auth(owner))
		defer func() { chip.Flush(auth.Handle()) }()
	}
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: auth},
		PublicInfo: tpm2.New2B(area),
	}.Execute(chip)
	return err
}

// Raise increments the counter until it is delta above its beginning, and returns
// its value. A counter that is there, or beyond, is left alone: repeating is safe.
func Raise(chip *core.Chip, key *ecdsa.PrivateKey, r Record, delta uint64) (uint64, error) {
	value, err := Read(chip, r)
	if err != nil {
		return 0, err
	}
	if err := checkKey(key, r); err != nil {
		return 0, err
	}
	area, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](r.Public)
	if err != nil {
		return 0, err
	}
	now := value - r.Initial
	if now >= delta {
		return value, nil
	}
	if delta-now > MaxRaise {
		return 0, &Alarm{Rule: "leap", Text: fmt.Sprintf("it stands %d above its beginning, and may not go to %d at once", now, delta)}
	}
	if err := increment(chip, key, *area, delta-now); err != nil {
		return 0, err
	}
	raised, err := Read(chip, r)
	if err == nil && raised < r.Initial+delta {
		return 0, alarm("behind", "it shows %d after %d and %d increments", raised, value, delta-now)
	}
	return raised, err
}

// increment runs TPM2_NV_Increment some times, each allowed by PolicySigned.
func increment(chip *core.Chip, key *ecdsa.PrivateKey, area tpm2.TPMSNVPublic, times uint64) error {
	name, err := tpm2.NVName(&area)
	if err != nil {
		return err
	}
	index := tpm2.NamedHandle{Handle: area.NVIndex, Name: *name}
	signer, err := loadKey(chip, key.Public())
	for ; err == nil && times > 0; times-- {
		err = incrementOnce(chip, key, signer, index)
	}
	return err
}

// incrementOnce has a signature over this session's nonce and this very command:
// recorded, it is of no use to anybody.
func incrementOnce(chip *core.Chip, key *ecdsa.PrivateKey, signer, index tpm2.NamedHandle) error {
	command, err := tpm2.CPHash[tpm2.NVIncrementResponse](tpm2.TPMAlgSHA256, tpm2.NVIncrement{AuthHandle: index, NVIndex: index})
	if err != nil {
		return err
	}
	session, _, err := tpm2.PolicySession(chip, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		return err
	}
	defer chip.Flush(session.Handle())
	signature, err := allow(key, session.NonceTPM().Buffer, command.Buffer)
	if err != nil {
		return err
	}
	_, err = tpm2.PolicySigned{
		AuthObject:    signer,
		PolicySession: session.Handle(),
		NonceTPM:      session.NonceTPM(),
		CPHashA:       *command,
		Auth:          signature,
	}.Execute(chip)
	if err != nil {
		return err
	}
	_, err = tpm2.NVIncrement{
		AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: session},
		NVIndex:    index,
	}.Execute(chip)
	return err
}

func loadKey(chip *core.Chip, key crypto.PublicKey) (tpm2.NamedHandle, error) {
	data, err := tpmpolicy.PublicArea(key)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](data)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	handle, err := chip.Load(func() (tpm2.TPMHandle, error) {
		rsp, err := tpm2.LoadExternal{InPublic: tpm2.New2B(*area), Hierarchy: tpm2.TPMRHOwner}.Execute(chip)
		if err != nil {
			return 0, err
		}
		return rsp.ObjectHandle, nil
	})
	return tpm2.NamedHandle{Handle: handle, Name: tpm2.TPM2BName{Buffer: tpmpolicy.Name(data)}}, err
}

// allow signs aHash of PolicySigned (Part 3, 23.3): nonceTPM, no expiration, cpHash.
func allow(key *ecdsa.PrivateKey, nonce, command []byte) (tpm2.TPMTSignature, error) {
	message := binary.BigEndian.AppendUint32(bytes.Clone(nonce), 0)
	digest := sha256.Sum256(append(message, command...))
	der, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return tpm2.TPMTSignature{}, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return tpm2.TPMTSignature{}, err
	}
	return tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: sig.R.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: sig.S.FillBytes(make([]byte, 32))},
		}),
	}, nil
}
