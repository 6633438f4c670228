package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/e2e/lab/image"
	"github.com/gatewarden/gatewarden/fleet/release"
)

// From the first instruction on the kernel measures by its own policy tcb. When systemd
// starts, it loads this one in its place: what runs is measured wherever it lies, what
// root reads only on the root file system. What is on the others changes.
const imaPolicy = `measure func=BPRM_CHECK mask=MAY_EXEC
measure func=MMAP_CHECK mask=MAY_EXEC
measure func=MODULE_CHECK
measure func=FIRMWARE_CHECK
measure func=POLICY_CHECK
measure func=FILE_CHECK mask=^MAY_READ euid=0 fsuuid=` + image.RootUUID + "\n"

const setpoint = "etc/lab-setpoint"

// signedFiles makes a release whose files are signed and measured.
func signedFiles(r *image.Release) {
	r.SignedFiles, r.Words = true, "ima_policy=tcb ima_template=ima-sig"
	r.Files = map[string]string{"etc/ima/ima-policy": imaPolicy, setpoint: "42\n"}
}

// mayRun signs which files the gateway may read and run: those that are signed, and
// those of the initrd, which has no room for signatures.
func (w *world) mayRun(first image.Built) {
	w.Helper()
	_, public, err := w.Cache.FileKey()
	w.check(err)
	key, err := os.ReadFile(public)
	w.check(err)
	list, err := os.ReadFile(first.Early)
	w.check(err)
	raw, err := w.owner.repo.Policy(release.PolicyOptions{Fleet: fleetID})
	w.check(err)
	var document map[string]any
	w.check(json.Unmarshal(raw, &document))
	document["ima"] = attest.IMAPolicy{Lists: []attest.Digest{sha256.Sum256(list)}, Keys: []string{string(key)}}
	raw, err = json.Marshal(document)
	w.check(err)
	_, err = w.owner.repo.Policy(release.PolicyOptions{Attest: raw, List: func(attest.Digest) ([]byte, error) { return list, nil }})
	w.check(err)
	w.owner.publish(w.settings.Updates)
}

// Story 8: all files of the image are signed, the kernel tells which were read and run.
// One that was changed and one that nobody knows are named until the machine boots a
// clean image.
func TestFilesThatNobodySignedAreNamedAndDistrustUntilTheNextBoot(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{first: signedFiles, files: true})
	s := w.enrol()
	w.says(s.Verdict.Explanation, "held", "IMA", "all files are")
	t.Log(strings.Join(w.explanation(), "\n"))

	// A signed file that is read later only makes the list longer.
	w.vm.Run("cat /" + setpoint)
	began := time.Now()
	w.judged(trusted, began)
	w.says(w.explanation(), "held", "IMA", "all files are")

	w.vm.Run("mount -o remount,rw / && echo 43 >/" + setpoint + " && cat /" + setpoint)
	w.said(verdictLimit, "failed, distrusts", "/"+setpoint, "its signature does not verify")
	w.judged("untrusted", began)

	const unknown = "/tmp/unknown" // a tmpfs, where tcb would not measure it
	w.vm.Run("cp /usr/bin/true " + unknown + " && echo >>" + unknown + " && " + unknown)
	w.said(verdictLimit, "failed, distrusts", unknown, "it is not listed, and not signed")
	t.Log(strings.Join(w.explanation(), "\n"))

	// Slot b has the same image, untouched.
	w.vm.Run("sync; mount -o remount,ro / && dd if=/dev/vda3 of=/dev/vda2 bs=4M conv=fsync 2>&1")
	began = time.Now()
	w.vm.Reboot()
	w.judged(trusted, began)
	w.says(w.explanation(), "held", "IMA", "all files are")
}
