package verifier

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/ear"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

// tell makes the attestation result that goes with a verdict. The verdict is stored
// already: a result that can't be made costs a log line and no more.
func (v *Verifier) tell(d registry.Device, policy string, nonce []byte, r *attest.Result, now time.Time) string {
	if v.Results == nil || d.SoftwareKeys { // nothing of it was attested
		return ""
	}
	token, err := v.Results.Issue(ear.Appraisal{
		Device: d.ID, At: now, Grade: r.Grade(), Rules: r.Rules(), Release: r.Facts().Release, Claims: r.Claims(), Nonce: nonce,
		Policy: policy, Genuine: d.Genuine(), Files: filesJudged(r.Facts()),
	}, "")
	if err != nil {
		v.Log.Error("make attestation result", "device", d.ID, "error", err)
	}
	return token
}

// Result makes an attestation result of the last verdict on d for whoever chose
// nonce (base64url; may be empty). registry.ErrNotFound before the first verdict by
// d's present attestation key; ear.ErrOld if it is too old.
func (v *Verifier) Result(ctx context.Context, d registry.Device, nonce string) (string, error) {
	last, err := LastVerdict(ctx, v.Registry, d)
	if err != nil {
		return "", err
	}
	m, err := recall(ctx, v.Registry, d.ID)
	if err != nil {
		return "", err
	}
	if v.Results == nil || m.Answer == nil {
		return "", fmt.Errorf("make attestation result of %s: %w", d.ID, registry.ErrNotFound)
	}
	a := ear.Appraisal{
		Device: d.ID, At: last.At, Grade: attest.Grade(last.Grade), Release: d.Running, Nonce: m.Answer.Evidence.Nonce, Policy: m.Policy, Genuine: d.Genuine(),
	}
	if err := json.Unmarshal(last.Rules, &a.Rules); err != nil {
		return "", fmt.Errorf("decode rules of %s: %w", d.ID, err)
	}
	var facts attest.Facts
	if err := json.Unmarshal(last.Facts, &facts); err != nil {
		return "", fmt.Errorf("decode facts of %s: %w", d.ID, err)
	}
	a.Files = filesJudged(&facts)
	if err := json.Unmarshal(last.Claims, &a.Claims); err != nil {
		return "", fmt.Errorf("decode claims of %s: %w", d.ID, err)
	}
	return v.Results.Issue(a, nonce)
}

func filesJudged(f *attest.Facts) bool { return f.IMA != nil && f.IMA.Judged }
