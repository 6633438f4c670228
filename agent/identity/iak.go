package identity

import (
	"context"
	"errors"

	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/devid"
)

// makersWord has the attestation key of the machine's maker state that the AK is in
// its chip; nil where there is no such key, or it can't be used. It is not asked
// again after it refused: unlike ours, such a key counts towards a lockout.
func (c *chip) makersWord(ctx context.Context, ek *tpm.EK) (*wire.IAK, error) {
	if c.noIAK {
		return nil, nil
	}
	var word *wire.IAK
	iak, err := devid.IAK(ctx, c.id.cfg.TPM)
	if err == nil && iak != nil {
		word = &wire.IAK{Certificate: iak.Certificate}
		word.Certify, word.Signature, err = c.id.cfg.TPM.CertifyBy(ctx, iak.Handle, c.ak, wire.IAKQualifyingData(c.id.cfg.Fleet().Fleet, ek.Name))
	}
	if errors.Is(err, tpm.ErrPolicy) || errors.Is(err, tpm.ErrDamaged) {
		c.noIAK = true
		c.id.cfg.Log.Warn("the attestation key of the machine's maker can't be used", "error", err)
		return nil, nil
	}
	return word, err
}
