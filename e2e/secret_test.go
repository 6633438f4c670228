package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/e2e/lab/image"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// pump is a service that has secrets. It starts before the agent, and while the boot
// is not ready yet.
func pump(names ...string) string {
	text := "[Unit]\nDescription=Lab: a service that has secrets\nBefore=gatewarden.service systemd-pcrphase.service\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
	for _, name := range names {
		text += "LoadCredential=" + name + ":/run/gatewarden/credentials.sock\n"
	}
	return text + "ExecStart=sh -c 'cd \"$CREDENTIALS_DIRECTORY\" && cat " + strings.Join(names, " ") + " >/run/lab-pump'\n"
}

// atBoot has a unit started at boot, which the image does not enable.
func atBoot(unit string) (path, text string) {
	return "etc/systemd/system/lab-report.service.d/" + unit + ".conf", "[Unit]\nWants=" + unit + "\nAfter=" + unit + "\n"
}

// Story 5: a service gets its sealed secrets by LoadCredential, across an update and
// before the agent runs; another unit does not, nor the service itself once the boot
// is past the phase of one.
func TestAServiceKeepsItsSecretsThroughAnUpdate(t *testing.T) {
	inFull(t)
	const file = "etc/systemd/system/pump.service"
	w := newWorld(t, setup{first: func(r *image.Release) { r.Files = map[string]string{file: pump("pump-key")} }})
	w.enrol()
	w.seal()
	w.vm.Run("printf always | gatewarden seal pump-key --unit pump.service")
	w.vm.Run("printf early | gatewarden seal pump-early --unit pump.service --until ready")
	w.vm.Run("systemctl start pump && grep -x always /run/lab-pump")
	if out, err := w.vm.Try("systemd-run --wait --collect -p LoadCredential=pump-key:/run/gatewarden/credentials.sock true"); err == nil || !strings.Contains(out, "243") {
		t.Errorf("another unit asks for the secret: %v: %s", err, out)
	}

	wants, text := atBoot("pump.service")
	w.offer(w.later("2.0.0", func(r *image.Release) {
		r.Files = map[string]string{file: pump("pump-key", "pump-early"), wants: text}
	}))
	down := time.Now()
	w.vm.Up()
	if u := w.outcome("2.0.0", trialLimit); u.Outcome != wire.UpdateInstalled {
		t.Fatalf("release 2.0.0: %s: %s", u.Outcome, u.Text)
	}
	w.judged(trusted, down)
	w.vm.Run("grep -x alwaysearly /run/lab-pump")
	if out, err := w.vm.Try("gatewarden unseal pump-early"); err == nil || !strings.Contains(out, "PCR 11") {
		t.Errorf("a secret until ready, after it: %v: %s", err, out)
	}
	if out, err := w.vm.Try("systemctl restart pump"); err == nil {
		t.Errorf("the service started without its secret: %s", out)
	}
	w.opens()
}

// authFiles set passwords on the TPM before the agent first runs, and tell them to
// the services as operations.md says.
func authFiles() map[string]string {
	files := map[string]string{
		"etc/lab/owner": "lab-owner\n", "etc/lab/endorsement": "lab-endorsement\n",
		"etc/systemd/system/lab-auth.service": "[Unit]\nDescription=Lab: somebody takes ownership of the TPM\nBefore=gatewarden.service\n\n[Service]\nType=oneshot\n" +
			"ExecStart=-sh -c 'tpm2_changeauth -c owner lab-owner; tpm2_changeauth -c endorsement lab-endorsement'\n",
	}
	path, text := atBoot("lab-auth.service")
	files[path] = text
	for _, service := range []string{"gatewarden", "gatewarden-helper", "gatewarden-credentials"} {
		files["etc/systemd/system/"+service+".service.d/auth.conf"] =
			"[Service]\nLoadCredential=tpm-owner-auth:/etc/lab/owner\nLoadCredential=tpm-endorsement-auth:/etc/lab/endorsement\n"
	}
	return files
}

// Story 5: a TPM that somebody else owns, with passwords on owner and endorsement.
func TestAGatewayWorksOnATPMWithPasswordsAndLeavesThem(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{first: func(r *image.Release) { r.Files = authFiles() }})
	if out, err := w.vm.Try("tpm2_changeauth -c owner x"); err == nil {
		t.Fatalf("the TPM has no owner password: %s", out)
	}
	w.enrol()
	w.seal()
	began := time.Now()
	w.vm.Reboot()
	w.judged(trusted, began)
	w.opens()
	for hierarchy, password := range map[string]string{"owner": "lab-owner", "endorsement": "lab-endorsement"} {
		w.vm.Run(fmt.Sprintf("tpm2_changeauth -c %s -p %s %[2]s", hierarchy, password))
	}
}

// Story 5: the TPM was cleared. docs/recovery.md brings the gateway back; what was
// sealed is gone.
func TestAGatewayWhoseTPMWasClearedComesBackByTheBook(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{})
	w.enrol()
	w.seal()
	device := w.id
	w.vm.Run("tpm2_clear -c lockout")
	w.vm.Reboot()
	w.until("the gateway waits for approval", agentLimit, isWaiting)
	w.staysShut("another TPM")
	w.vm.Run("systemctl stop gatewarden-helper.service && rm /var/lib/gatewarden-helper/counter.json && gatewarden secrets rm --all")
	began := time.Now()
	w.check(w.api.Approve(w.Context(), w.id, operator.Decision{By: person, Reason: "cleared in the lab"}))
	if s := w.judged(trusted, began); s.Device != device {
		t.Errorf("the gateway became %s", s.Device)
	}
	w.seal()
	w.vm.Reboot()
	w.until("the agent answers", agentLimit, func(local.Status) bool { return true })
	w.opens()
}
