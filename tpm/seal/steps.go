package seal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
)

// session is a policy session of the chip.
type session struct {
	tpm2.Session
}

// satisfy takes the session through the policy, one step per part.
func (f *file) satisfy(c *tpm.Chip, s *session, signed []tpmpolicy.Signed) error {
	h := &f.Header
	_, branches, err := h.digest()
	if err != nil {
		return err
	}
	now, err := readPCRs(c, h.Ref.PCRs)
	if err != nil {
		return err
	}
	if err := h.satisfyBoot(c, s, now, signed); err != nil {
		return err
	}
	if err := h.satisfyCounter(c, s); err != nil {
		return err
	}
	if err := s.pcr(c, []int{secureBootPCR}); err != nil {
		return err
	}
	if branches == nil {
		return nil
	}
	return s.or(c, branches)
}

// satisfyBoot is the part about the boot: signed, or one of those listed.
func (h *header) satisfyBoot(c *tpm.Chip, s *session, now map[int]tpmpolicy.Digest, signed []tpmpolicy.Signed) error {
	if now[secureBootPCR] != h.PCR7 {
		return refuse("pcr", []int{secureBootPCR}, "PCR 7 (%s) is not what it was when the secret was sealed", meaning(secureBootPCR))
	}
	if h.Key == nil {
		branches, err := h.chooseLiteral(now)
		if err != nil {
			return err
		}
		if err := s.pcr(c, h.Ref.PCRs); err != nil {
			return err
		}
		return s.or(c, branches)
	}
	approved, err := h.chooseSigned(now, signed)
	if err != nil {
		return err
	}
	ticket, name, err := h.verify(c, approved)
	if err != nil {
		return err
	}
	if err := s.pcr(c, h.Ref.PCRs); err != nil {
		return err
	}
	ref, err := h.Ref.Digest()
	if err != nil {
		return err
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession:  s.Handle(),
		ApprovedPolicy: tpm2.TPM2BDigest{Buffer: approved.Policy[:]},
		PolicyRef:      tpm2.TPM2BDigest{Buffer: ref[:]},
		KeySign:        tpm2.TPM2BName{Buffer: name},
		CheckTicket:    ticket,
	}.Execute(c)
	if errors.Is(err, tpm2.TPMRCValue) { // a PCR changed since it was read
		return fmt.Errorf("%w: %w", tpm2.TPMRCPCRChanged, err)
	}
	return err
}

// verify has the chip check a signature; its ticket says so later in the session.
func (h *header) verify(c *tpm.Chip, approved tpmpolicy.Signed) (tpm2.TPMTTKVerified, []byte, error) {
	key, err := tpmpolicy.ParseKey(h.Key)
	if err != nil {
		return tpm2.TPMTTKVerified{}, nil, err
	}
	signer, err := loadKey(c, key)
	if err != nil {
		return tpm2.TPMTTKVerified{}, nil, err
	}
	ref, err := h.Ref.Digest()
	if err != nil {
		return tpm2.TPMTTKVerified{}, nil, err
	}
	signature, err := tpmSignature(key, approved.Signature)
	if err != nil {
		return tpm2.TPMTTKVerified{}, nil, err
	}
	rsp, err := tpm2.VerifySignature{
		KeyHandle: signer.Handle,
		Digest:    tpm2.TPM2BDigest{Buffer: approved.Digest(ref[:])},
		Signature: signature,
	}.Execute(c)
	if err != nil {
		return tpm2.TPMTTKVerified{}, nil, err
	}
	return rsp.Validation, signer.Name.Buffer, nil
}

func (h *header) satisfyCounter(c *tpm.Chip, s *session) error {
	index := tpm2.NamedHandle{Handle: tpm2.TPMHandle(h.Counter.Index), Name: tpm2.TPM2BName{Buffer: h.Counter.Name}}
	_, err := tpm2.PolicyNV{
		AuthHandle:    tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:       index,
		PolicySession: s.Handle(),
		OperandB:      tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, h.Counter.Value)},
		Operation:     tpm2.TPMEOEq,
	}.Execute(c)
	switch {
	case errors.Is(err, tpm2.TPMRCPolicy):
		return h.explainCounter(c)
	case errors.Is(err, tpm2.TPMRCHandle), errors.Is(err, tpm2.TPMRCNVUninitialized):
		return refuse("counter", nil, "the counter of the security epoch at NV index %#x was deleted", h.Counter.Index)
	}
	return err
}

// pcr adds the PCRs as they are.
func (s *session) pcr(c transport.TPM, pcrs []int) error {
	list := make([]uint, len(pcrs))
	for i, pcr := range pcrs {
		list[i] = uint(pcr)
	}
	_, err := tpm2.PolicyPCR{
		PolicySession: s.Handle(),
		Pcrs: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(list...)},
		}},
	}.Execute(c)
	return err
}

func (s *session) or(c transport.TPM, branches []tpmpolicy.Digest) error {
	list, err := tpmpolicy.Branches(branches)
	if err != nil {
		return err
	}
	digests := make([]tpm2.TPM2BDigest, len(list))
	for i, branch := range list {
		digests[i] = tpm2.TPM2BDigest{Buffer: branch[:]}
	}
	_, err = tpm2.PolicyOr{PolicySession: s.Handle(), PHashList: tpm2.TPMLDigest{Digests: digests}}.Execute(c)
	if errors.Is(err, tpm2.TPMRCValue) { // a PCR changed since it was read
		return fmt.Errorf("%w: %w", tpm2.TPMRCPCRChanged, err)
	}
	return err
}
