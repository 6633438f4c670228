package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/e2e/lab/image"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	vault       = "/dev/disk/by-partlabel/vault"
	vaultUnit   = "systemd-cryptsetup@vault.service"
	vaultHolds  = "what only a signed boot reads"
	vaultSize   = 32 // MiB: the header of LUKS2 takes 16
	cryptTab    = "vault PARTLABEL=vault none tpm2-device=auto,headless=true\n"
	enrolVault  = "systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs= --tpm2-public-key=/var/lib/lab/pcr.pem --tpm2-public-key-pcrs=11+12+13 " + vault
	formatVault = "printf first >/run/vault-key && cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 " + vault + " /run/vault-key"
)

// Story 5: a partition that systemd-cryptsetup opens by the owner's signature of the
// boot, in the image's .pcrsig: at boot and in the next release, which nobody enrolled;
// in an altered boot it stays shut.
func TestSystemdOpensAPartitionInSignedBootsAlone(t *testing.T) {
	inFull(t)
	tabled := func(r *image.Release) { r.Files = map[string]string{"etc/crypttab": cryptTab} }
	var public []byte
	w := newWorld(t, setup{coldBoot: true, first: tabled, disk: func(w *world, first image.Built, disk string) string {
		public = w.owner.keyForSystemd()
		first = w.owner.withSignatures(first)
		w.check(w.owner.add(first, 1))
		return w.withVault(first, disk)
	}})
	w.enrol()
	w.vm.Put("/var/lib/lab/pcr.pem", public)
	w.vm.Run(formatVault)
	w.vm.Run("PASSWORD=first " + enrolVault + " && systemd-cryptenroll --wipe-slot=password " + vault)
	if out := w.vm.Run("systemd-cryptenroll " + vault); !strings.Contains(out, "tpm2") || strings.Contains(out, "password") {
		t.Errorf("the partition opens by\n%s", out)
	}
	w.vm.Run("rm /run/vault-key && systemctl restart " + vaultUnit + " && printf '" + vaultHolds + "' | dd of=/dev/mapper/vault conv=fsync")

	began := time.Now()
	w.vm.Reboot()
	w.judged(trusted, began)
	w.vaultIsOpen()

	w.offer(w.owner.withSignatures(w.later("2.0.0", tabled)))
	down := time.Now()
	w.vm.Up()
	if u := w.outcome("2.0.0", trialLimit); u.Outcome != wire.UpdateInstalled {
		t.Fatalf("release 2.0.0: %s: %s", u.Outcome, u.Text)
	}
	w.says(w.judged(trusted, down).Verdict.Explanation[:1], "2.0.0")
	w.vaultIsOpen()

	// The same signatures do not open it with another command line.
	evil := w.later("2.0.0", func(r *image.Release) { tabled(r); r.Words = "lab.evil=1" })
	altered := filepath.Join(w.dir, "evil.efi")
	w.check(image.AddSection(evil.UKI("b"), altered, ".pcrsig", filepath.Join(w.dir, "signed-2.0.0", "tpm2-pcr-signature.json")))
	data, err := os.ReadFile(altered)
	w.check(err)
	w.vm.Put("/efi/EFI/Linux/gw-b.efi", data)
	w.vm.Run("sync")
	began = time.Now()
	w.vm.Reboot()
	w.judged("untrusted", began)
	out, err := w.vm.Try("systemctl is-active " + vaultUnit + "; ls /dev/mapper; journalctl -b --no-pager -o cat -u " + vaultUnit)
	t.Logf("in an altered boot:\n%s", out)
	if strings.HasPrefix(out, "active") || strings.Contains(out, "\nvault\n") || !strings.Contains(out, "signature") {
		t.Errorf("in an altered boot: %v", err)
	}
}

// withVault copies a disk, with a partition more, and with first's boot image.
func (w *world) withVault(first image.Built, disk string) string {
	w.Helper()
	own := filepath.Join(w.dir, "disk.raw")
	w.check(run("cp", "--sparse=always", disk, own))
	info, err := os.Stat(own)
	w.check(err)
	w.check(os.Truncate(own, info.Size()+vaultSize<<20))
	w.check(run("sh", "-c", fmt.Sprintf("echo 'size=%dMiB, name=vault' | PATH=$PATH:/usr/sbin sfdisk -q --append %s", vaultSize, own)))
	offset, _ := image.Partition("esp")
	w.check(run("mcopy", "-o", "-i", fmt.Sprintf("%s@@%d", own, offset), first.UKI("a"), "::/EFI/Linux/gw-a.efi"))
	return own
}

// vaultIsOpen fails unless systemd opened the partition in this boot.
func (w *world) vaultIsOpen() {
	w.Helper()
	out := w.vm.Run(fmt.Sprintf("systemctl is-active %s && head -c %d /dev/mapper/vault && journalctl -b --no-pager -o cat -u %[1]s", vaultUnit, len(vaultHolds)))
	w.Log(out)
	if !strings.HasPrefix(out, "active\n"+vaultHolds) {
		w.Errorf("the vault is not open: %s", out)
	}
}
