package secret

import (
	"crypto"
	"errors"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm/seal"
)

// Terms say for whom a secret is, and when it opens beside the policy of all. They
// last through updates.
type Terms struct {
	Unit  string // systemd unit that may have it, or ""
	Until string // "ready": it shuts when the boot is ready; or ""
	// Recovery is a key whose signature opens it in any boot, on this chip; or nil.
	Recovery crypto.PublicKey
}

// termsOf are those of a sealed file.
func termsOf(i seal.Info) (t Terms, err error) {
	t = Terms{Unit: i.Unit, Until: i.Ref.Until}
	if i.Recovery != nil {
		t.Recovery, err = tpmpolicy.ParseKey(i.Recovery)
	}
	return t, err
}

// isPast says whether a secret is shut though the release has policies for it: for
// one that shuts at "ready", that is so in all of this boot that the agent sees.
func isPast(err error) bool {
	var refused *seal.Refusal
	return errors.As(err, &refused) && refused.Rule == "pcr"
}
