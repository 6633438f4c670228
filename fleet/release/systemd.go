package release

import (
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy/sigfile"
)

// SystemdSignatures makes a tpm2-pcr-signature.json for systemd-cryptsetup and
// systemd-creds, which know no reference: whatever is enrolled with the product's key
// opens in each boot of each UKI that was ever signed so, with or without Secure Boot,
// and no epoch ends that. They are over PCRs 11, 12 and 13, never 11 alone, and so hold
// for the UKI too that carries them in its section .pcrsig, which is not measured there.
// No secret of this program opens by them. systemd verifies signatures of RSA keys only.
// The phase path "" is the boot before any phase was measured: there systemd opens what
// crypttab names, unless systemd runs in the initrd too.
func (r *Repo) SystemdSignatures(product, uki, loader string, phases []string) ([]byte, error) {
	if len(phases) == 0 {
		phases = append([]string{""}, DefaultPhases()...)
	}
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("sign for systemd: %w", err) }
	for _, path := range phases {
		for _, word := range words(path) {
			if !slices.Contains([]string{"enter-initrd", "leave-initrd", "sysinit", "ready"}, word) {
				return fail(fmt.Errorf("phase %q is not one in which a secret may open", word))
			}
		}
	}
	keys, err := r.policySigners(product)
	if err != nil {
		return fail(err)
	}
	keys = slices.DeleteFunc(keys, func(k keyPair) bool { _, ok := k.signer.(*rsa.PrivateKey); return !ok })
	if len(keys) == 0 {
		return fail(fmt.Errorf("systemd takes RSA keys only, and %s has none: put one of 2048 bits into the keys folder as pcr-%[1]s-%d.pem, then `release keys rotate-pcr %[1]s` takes it up",
			product, r.set.Products[product].Made+1))
	}
	boots, err := readBoots([]input{{"boot", "", uki}}, loader)
	if err != nil {
		return fail(err)
	}
	var list []tpmpolicy.Signed
	for _, secure := range []bool{true, false} {
		boots[0].SecureBoot = secure
		for _, path := range phases {
			predicted := boots[0].PCRs(words(path))
			values := make(map[int]tpmpolicy.Digest)
			for _, pcr := range []int{11, 12, 13} {
				values[pcr] = tpmpolicy.Digest(predicted[pcr])
			}
			for _, k := range keys {
				one, err := tpmpolicy.ApproveWithoutRef(steady{k.signer}, values)
				if err != nil {
					return fail(err)
				}
				list = append(list, one)
			}
		}
	}
	data, err := sigfile.Encode(list)
	if err != nil {
		return fail(err)
	}
	return data, nil
}

// words are those of a phase path, none for "".
func words(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == ':' })
}
