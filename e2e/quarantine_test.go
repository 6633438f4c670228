package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/e2e/lab/image"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// pair is the file of the operational key and its certificate.
const pair = "/var/lib/gatewarden/identity/operational.pem"

// Story 7: an altered boot costs the gateway its certificate, its topics and its
// secrets; one that is as it should be brings all of them back, with nobody's help.
func TestAGatewayInQuarantineHealsByAGoodBoot(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{})
	w.enrol()
	w.seal()
	full := w.certificate()
	w.lives(full, w.id, "lab devices", wire.GateFull, time.Duration(w.settings.Certificates.Full))
	w.vm.Run("cp " + running + " /var/lib/lab/good.efi; cp " + pair + " /var/lib/lab/")

	began := time.Now()
	w.replaceUKI(image.Release{Version: "1.0.0", Words: "lab.evil=1"})
	w.vm.Run("sync")
	w.vm.Reboot()
	s := w.inQuarantine(began)
	w.says(s.Verdict.Explanation, "lab.evil=1")
	ill := w.certificate()
	w.lives(ill, wire.QuarantineID(w.id), "lab quarantine", wire.GateQuarantine, time.Duration(w.settings.Certificates.Quarantine))
	w.revoked(full.Serial)
	w.staysShut("PCR")
	w.reaches(ill.Identity)

	// Whoever kept the certificate from before gets nowhere with it.
	w.vm.Run("systemctl stop gatewarden && cp /var/lib/lab/operational.pem " + pair + " && systemctl start gatewarden")
	w.inQuarantine(time.Now())
	again := w.since(ill.Serial)
	if !slices.ContainsFunc(again, func(r identity.Record) bool {
		return r.Identity == ill.Identity && strings.HasSuffix(r.Why, "recovered by EK and AK")
	}) {
		t.Errorf("with the revoked certificate put back, the gateway got %+v", again)
	}
	w.revoked(full.Serial, ill.Serial)

	healed := time.Now()
	w.vm.Run("cp /var/lib/lab/good.efi " + running + "; sync")
	w.vm.Reboot()
	w.judged(trusted, healed)
	w.until("the gateway is itself again", verdictLimit, func(s local.Status) bool { return s.Link.Identity == w.id && !s.Locked })
	w.lives(w.certificate(), w.id, "lab devices", wire.GateFull, time.Duration(w.settings.Certificates.Full))
	w.opens()
	w.revoked(full.Serial, ill.Serial)
	if got := w.since(full.Serial); got[0].Identity != w.id || got[len(got)-1].Serial != ill.Serial {
		t.Errorf("the certificates since %s: %+v", full.Serial, got)
	}
	w.reaches(w.id)
}

// inQuarantine waits until the gateway is distrusted since then, and lives so.
func (w *world) inQuarantine(since time.Time) local.Status {
	w.Helper()
	w.judged("untrusted", since)
	s := w.until("the gateway is in quarantine and its secrets are shut", verdictLimit, func(s local.Status) bool {
		return s.Link.Connected && s.Link.Identity == wire.QuarantineID(w.id) && s.Locked
	})
	if d, err := w.api.Device(w.Context(), w.id); err != nil || d.State != registry.Quarantined {
		w.Errorf("the fleet says the device is %s: %v", d.State, err)
	}
	return s
}

// certificate is what `gatewarden cert show` says of the one in use.
func (w *world) certificate() local.Certificate {
	w.Helper()
	var c local.Certificate
	w.check(json.Unmarshal([]byte(w.vm.Run("gatewarden cert show --json")), &c))
	w.Logf("certificate %s for %s by %s: %s", c.Serial, c.Identity, c.Issuer, c.Why)
	return c
}

// lives fails unless a certificate is for identity, of this issuer and life.
func (w *world) lives(c local.Certificate, identity, issuer string, gate wire.Gate, life time.Duration) {
	w.Helper()
	const backdate = 5 * time.Minute
	if c.Identity != identity || c.Issuer != issuer || c.Gate != gate || c.NotAfter.Sub(c.NotBefore) != life+backdate {
		w.Errorf("the certificate is for %s by %s, gate %s, from %s until %s; want %s, %s, %s, %s", c.Identity, c.Issuer, c.Gate, c.NotBefore, c.NotAfter, identity, issuer, gate, life)
	}
}

// revoked fails unless these are the device's certificates that the fleet revoked.
func (w *world) revoked(serials ...string) {
	w.Helper()
	d, err := w.api.Device(w.Context(), w.id)
	w.check(err)
	var got []string
	for _, c := range d.Certificates {
		if c.Revoked != "" {
			got = append(got, c.Serial)
		}
	}
	if slices.ContainsFunc(serials, func(s string) bool { return !slices.Contains(got, s) }) {
		w.Errorf("the fleet revoked %v, not all of %v", got, serials)
	}
}

// reaches has the operator ping the gateway, which answers on the topics of identity
// and with the key of a certificate for that. What was signed for the challenge of
// an earlier start is signed again.
func (w *world) reaches(identity string) {
	w.Helper()
	sent := ""
	w.Until("the gateway answers a command as "+identity, verdictLimit, func() error {
		d, err := w.api.Device(w.Context(), w.id)
		if err != nil {
			return err
		}
		last := answer(d, sent)
		if sent == "" || last.Rule == policy.RuleNoTrustedTime {
			if sent, err = w.api.Command(w.Context(), w.id, w.owner.command(policy.VerbPing)); err != nil {
				return err
			}
		}
		if last.Outcome != wire.OutcomeDone {
			return fmt.Errorf("the answer to %q is %q: %s", sent, last.Outcome, last.Text)
		}
		var receipt wire.Receipt
		w.check(json.Unmarshal(last.Signed, &receipt))
		if !slices.ContainsFunc(d.Certificates, func(c operator.Certificate) bool { return c.Serial == receipt.Serial && c.Identity == identity }) {
			return fmt.Errorf("it is signed by the key of certificate %s", receipt.Serial)
		}
		return nil
	})
}

// answer is a device's last one to the command with this hash, empty if there is none.
func answer(d operator.Detail, hash string) operator.Receipt {
	for _, c := range d.Commands {
		if c.Envelope == hash && len(c.Receipts) > 0 {
			return c.Receipts[len(c.Receipts)-1]
		}
	}
	return operator.Receipt{}
}
