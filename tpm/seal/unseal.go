package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
)

// Unseal opens a sealed file, with the signed policies of the release that runs.
// Errors: *Refusal (also tpm.ErrPolicy) if this boot may not have it, tpm.ErrReplaced
// if another chip sealed it, tpm.ErrDamaged if the file was altered.
func Unseal(ctx context.Context, t *tpm.TPM, blob []byte, signed []tpmpolicy.Signed) ([]byte, error) {
	f, err := parse(blob)
	if err != nil {
		return nil, fmt.Errorf("unseal secret: %w", err)
	}
	return f.unseal(ctx, t, func(c *tpm.Chip, s *session) error { return f.satisfy(c, s, signed) })
}

// unseal repeats where a PCR changed between the policy and the command: any PCR
// counts, and the kernel extends one at each file that it measures.
func (f *file) unseal(ctx context.Context, t *tpm.TPM, satisfy func(*tpm.Chip, *session) error) ([]byte, error) {
	var key []byte
	var err error
	for range maxAttempts {
		err = t.Do(ctx, "unseal secret", func(c *tpm.Chip) (err error) {
			key, err = f.unsealKey(c, satisfy)
			return err
		})
		if !errors.Is(err, tpm2.TPMRCPCRChanged) {
			break
		}
	}
	if errors.Is(err, tpm2.TPMRCPCRChanged) {
		return nil, fmt.Errorf("unseal secret: %w", refuse("pcr", nil, "PCRs changed during each of %d attempts", maxAttempts))
	}
	if err != nil {
		return nil, err
	}
	secret, err := f.open(key)
	if err != nil {
		return nil, fmt.Errorf("unseal secret: %w", err)
	}
	return secret, nil
}

func (f *file) unsealKey(c *tpm.Chip, satisfy func(*tpm.Chip, *session) error) ([]byte, error) {
	parent, err := c.StorageNamed(f.Header.Storage.Name, f.Header.Storage.Place)
	if err != nil {
		return nil, err
	}
	// Salted, so that who listens on the bus can't decrypt the answer.
	open, _, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16,
		tpm2.Salted(parent.Handle.Handle, parent.Public), tpm2.AESEncryption(128, tpm2.EncryptOut))
	if err != nil {
		return nil, err
	}
	defer c.Flush(open.Handle())
	s := &session{open}
	if err := satisfy(c, s); err != nil {
		return nil, err
	}
	object, err := f.load(c, parent)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.Unseal{
		ItemHandle: tpm2.AuthHandle{Handle: object.Handle, Name: object.Name, Auth: s.Session},
	}.Execute(c)
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, refuse("policy", nil, "the chip found its policy unsatisfied")
	}
	if err != nil {
		return nil, err
	}
	if len(rsp.OutData.Buffer) != keySize {
		return nil, fmt.Errorf("%w: a sealed key of %d bytes", tpm.ErrDamaged, len(rsp.OutData.Buffer))
	}
	return rsp.OutData.Buffer, nil
}

// load gives the sealed key back to the chip.
func (f *file) load(c *tpm.Chip, parent tpm.StorageKey) (tpm2.NamedHandle, error) {
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](f.Public)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](f.Private)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	handle, err := c.Load(func() (tpm2.TPMHandle, error) {
		rsp, err := tpm2.Load{
			ParentHandle: tpm2.AuthHandle{Handle: parent.Handle.Handle, Name: parent.Handle.Name, Auth: tpm2.PasswordAuth(nil)},
			InPublic:     *public,
			InPrivate:    *private,
		}.Execute(c)
		if err != nil {
			return 0, err
		}
		return rsp.ObjectHandle, nil
	})
	if errors.Is(err, tpm2.TPMRCIntegrity) || errors.Is(err, tpm2.TPMRCSize) || errors.Is(err, tpm2.TPMRCBinding) {
		return tpm2.NamedHandle{}, &Refusal{Rule: "damaged", Text: "the sealed key in the file was altered", class: tpm.ErrDamaged}
	}
	name, nameErr := f.name()
	return tpm2.NamedHandle{Handle: handle, Name: name}, errors.Join(err, nameErr)
}

// name is the Name of the sealed key.
func (f *file) name() (tpm2.TPM2BName, error) {
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](f.Public)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	area, err := public.Contents()
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	name, err := tpm2.ObjectName(area)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	return *name, nil
}
