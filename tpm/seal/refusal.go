package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
)

// Refusal says why a secret was not sealed or does not open. Rules: policy (it would
// protect nothing, or the chip says no), pcr (PCRs differ), unsigned (the running
// release has no signed policy for this secret), counter (a later epoch was reached,
// or the counter is another), damaged.
type Refusal struct {
	Rule string
	PCRs []int // those that differ
	Text string

	class error
}

func (r *Refusal) Error() string { return r.Unwrap().Error() + ": " + r.Text }

// Unwrap is the class: tpm.ErrPolicy, or tpm.ErrDamaged for the rule damaged.
func (r *Refusal) Unwrap() error {
	if r.class != nil {
		return r.class
	}
	return tpm.ErrPolicy
}

// Explained marks an error that has its class.
func (r *Refusal) Explained() {}

func refuse(rule string, pcrs []int, text string, args ...any) error {
	return &Refusal{Rule: rule, PCRs: pcrs, Text: fmt.Sprintf(text, args...)}
}

// chooseSigned finds the signed policy that this boot satisfies. The signature is
// checked here first, for the answer; the chip checks it again, for the secret.
func (h *header) chooseSigned(now map[int]tpmpolicy.Digest, signed []tpmpolicy.Signed) (tpmpolicy.Signed, error) {
	key, err := tpmpolicy.ParseKey(h.Key)
	if err != nil {
		return tpmpolicy.Signed{}, err
	}
	ref, err := h.Ref.Digest()
	if err != nil {
		return tpmpolicy.Signed{}, err
	}
	current, err := tpmpolicy.Digest{}.PCR(subset(now, h.Ref.PCRs))
	if err != nil {
		return tpmpolicy.Signed{}, err
	}
	approved := 0
	for _, s := range signed {
		if !slices.Equal(s.PCRs, h.Ref.PCRs) || s.Verify(key, ref[:]) != nil {
			continue
		}
		if s.Policy == current {
			return s, nil
		}
		approved++
	}
	if approved == 0 {
		return tpmpolicy.Signed{}, refuse("unsigned", nil,
			"the running release has no signed policy for what was sealed for %s, channel %s, epoch %d, PCRs %v",
			h.Ref.Product, h.Ref.Channel, h.Ref.Epoch, h.Ref.PCRs)
	}
	return tpmpolicy.Signed{}, h.differs(now, "none of the %d signed policies approves it", approved)
}

// chooseLiteral returns the branches, if this boot is one of them.
func (h *header) chooseLiteral(now map[int]tpmpolicy.Digest) ([]tpmpolicy.Digest, error) {
	branches, err := h.literal()
	if err != nil {
		return nil, err
	}
	current, err := tpmpolicy.Digest{}.PCR(subset(now, h.Ref.PCRs))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(branches, current) {
		return nil, h.differs(now, "it is none of the %d boots that were named", len(branches))
	}
	return branches, nil
}

// differs names what is not as it was at sealing.
func (h *header) differs(now map[int]tpmpolicy.Digest, reason string, args ...any) error {
	var pcrs []int
	var words []string
	for _, v := range h.Expected {
		if now[v.PCR] != v.Value {
			pcrs = append(pcrs, v.PCR)
			words = append(words, fmt.Sprintf("PCR %d (%s)", v.PCR, meaning(v.PCR)))
		}
	}
	reason = fmt.Sprintf(reason, args...)
	if len(pcrs) == 0 {
		return refuse("pcr", nil, "this boot is the one in which the secret was sealed, but %s", reason)
	}
	verb := "differs"
	if len(pcrs) > 1 {
		verb = "differ"
	}
	return refuse("pcr", pcrs, "%s %s from when the secret was sealed, and %s", strings.Join(words, ", "), verb, reason)
}

func subset(values map[int]tpmpolicy.Digest, pcrs []int) map[int]tpmpolicy.Digest {
	some := make(map[int]tpmpolicy.Digest, len(pcrs))
	for _, pcr := range pcrs {
		some[pcr] = values[pcr]
	}
	return some
}

// explainCounter looks why the comparison with the counter failed.
func (h *header) explainCounter(c *tpm.Chip) error {
	index := tpm2.TPMHandle(h.Counter.Index)
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
	if err != nil {
		return err
	}
	if string(public.NVName.Buffer) != string(h.Counter.Name) {
		return refuse("counter", nil, "the counter of the security epoch at NV index %#x is not the one sealed to: it was made again", h.Counter.Index)
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
		Size:       8,
	}.Execute(c)
	if err != nil {
		return err
	}
	if len(rsp.Data.Buffer) != 8 {
		return errors.New("read counter: no number")
	}
	value := binary.BigEndian.Uint64(rsp.Data.Buffer)
	if value < h.Counter.Value {
		return refuse("counter", nil, "the secret is for a security epoch to come: the counter shows %d, sealed for %d", value, h.Counter.Value)
	}
	return refuse("counter", nil, "the security epoch was raised since the secret was sealed: the counter shows %d, sealed for %d", value, h.Counter.Value)
}

var _ error = (*Refusal)(nil)
