package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
)

// Seal encrypts a secret so that it opens only as p says. PCR 7 is sealed to as it is
// now. The blob is a file; it is useless without this chip. Nothing is stored.
// Errors: *Refusal where p, or what this machine measures, would protect nothing;
// tpm.ErrReplaced if the storage key is not the pinned one.
func Seal(ctx context.Context, t *tpm.TPM, secret []byte, p Policy) ([]byte, error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("seal secret: it has %d bytes, it must have 1 to %d", len(secret), MaxSecret)
	}
	key := make([]byte, keySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("seal secret: %w", err)
	}
	var sealed *file
	err := t.Do(ctx, "seal secret", func(c *tpm.Chip) (err error) {
		sealed, err = sealKey(c, key, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := sealed.close(key, secret); err != nil {
		return nil, fmt.Errorf("seal secret: %w", err)
	}
	return sealed.encode()
}

// sealKey has the chip seal a key; the box of the file is still empty.
func sealKey(c *tpm.Chip, key []byte, p Policy) (*file, error) {
	now, err := readPCRs(c, p.Ref.PCRs)
	if err != nil {
		return nil, err
	}
	if err := p.check(now); err != nil {
		return nil, refuse("policy", nil, "%v", err)
	}
	parent, err := storageKey(c, p.Storage)
	if err != nil {
		return nil, err
	}
	h, err := p.header(now, parent)
	if err != nil {
		return nil, refuse("policy", nil, "%v", err)
	}
	policy, _, err := h.digest()
	if err != nil {
		return nil, refuse("policy", nil, "%v", err)
	}
	rsp, err := create(c, parent, template(policy), key)
	if err != nil {
		return nil, err
	}
	return &file{Header: h, Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate)}, nil
}

// storageKey is the pinned one, or the one that the chip has where none is pinned yet.
func storageKey(c *tpm.Chip, pinned []byte) (tpm.StorageKey, error) {
	key, err := c.Storage()
	if err != nil {
		return tpm.StorageKey{}, err
	}
	if pinned != nil && !bytes.Equal(key.Handle.Name.Buffer, pinned) {
		// A persistent key may have gone, or come, since.
		return c.StorageNamed(pinned, uint32(tpm2.TPMRHOwner))
	}
	return key, nil
}

func (p Policy) header(now map[int]tpmpolicy.Digest, parent tpm.StorageKey) (header, error) {
	h := header{
		Format: format, Name: p.Name, Unit: p.Unit, Ref: p.Ref, Counter: p.Counter, PCR7: now[secureBootPCR],
		Storage: storage{Place: parent.Place, Name: parent.Handle.Name.Buffer},
	}
	for _, values := range p.Literal {
		h.Literal = append(h.Literal, listPCRs(values))
	}
	expected := make(map[int]tpmpolicy.Digest)
	for _, pcr := range p.Ref.PCRs {
		expected[pcr] = now[pcr]
	}
	h.Expected = listPCRs(expected)
	var err error
	if p.Key != nil {
		if h.Key, err = tpmpolicy.MarshalKey(p.Key); err != nil {
			return header{}, err
		}
	}
	if p.Recovery != nil {
		h.Recovery, err = tpmpolicy.MarshalKey(p.Recovery)
	}
	return h, err
}

// create seals key under parent. The key crosses the bus encrypted; the session's
// HMAC shows that the chip made the object that was asked for.
func create(c *tpm.Chip, parent tpm.StorageKey, area tpm2.TPMTPublic, key []byte) (*tpm2.CreateResponse, error) {
	session := tpm2.HMAC(tpm2.TPMAlgSHA256, 16,
		tpm2.Salted(parent.Handle.Handle, parent.Public), tpm2.AESEncryption(128, tpm2.EncryptIn))
	defer func() { c.Flush(session.Handle()) }()
	var rsp *tpm2.CreateResponse
	err := c.Room(func() (err error) {
		rsp, err = tpm2.Create{
			ParentHandle: tpm2.AuthHandle{Handle: parent.Handle.Handle, Name: parent.Handle.Name, Auth: session},
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: key}),
			}},
			InPublic: tpm2.New2B(area),
		}.Execute(c)
		return err
	})
	if err != nil {
		return nil, err
	}
	made, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	if !sealedArea(*made, tpmpolicy.Digest(area.AuthPolicy.Buffer)) {
		return nil, errors.New("the chip made another object than the one asked for")
	}
	return rsp, nil
}

// readPCRs reads a set of PCRs, with 7 and 11.
func readPCRs(c *tpm.Chip, pcrs []int) (map[int]tpmpolicy.Digest, error) {
	if _, err := tpmpolicy.Selection(pcrs); err != nil {
		return nil, refuse("policy", nil, "%v", err)
	}
	read, err := tpm.PCRs(c, append([]int{secureBootPCR, phasePCR}, pcrs...))
	if err != nil {
		return nil, err
	}
	values := make(map[int]tpmpolicy.Digest, len(read))
	for pcr, value := range read {
		values[pcr] = value
	}
	return values, nil
}

// Lock extends PCR 11 by "gatewarden-lock": nothing that is sealed opens any more
// before the next boot. A device in quarantine does that.
func Lock(ctx context.Context, t *tpm.TPM) error {
	return t.Extend(ctx, phasePCR, sha256.Sum256([]byte("gatewarden-lock")))
}
