package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/e2e/lab/image"
)

// tampering is what somebody with root on the disk does between two boots, and what
// the verdict must say then.
type tampering struct {
	name  string
	alter func(w *world)
	says  []string // in one line of the verdict
	shut  string   // what the secret's refusal names
}

const (
	entry   = "/efi/loader/entries/evil.conf"
	running = "/efi/EFI/Linux/gw-a.efi"
)

func tamperings() []tampering {
	return []tampering{
		{"an altered command line", func(w *world) { w.replaceUKI(image.Release{Version: "1.0.0", Words: "lab.evil=1"}) },
			[]string{"failed", "command line", "lab.evil=1"}, "the fleet judged this boot untrusted"},
		{"a boot entry beside the slots'", func(w *world) {
			w.vm.Put(entry, []byte("title evil\nefi /EFI/Linux/gw-a.efi\noptions "+image.Release{Deb: w.deb}.CommandLine("a")+" lab.evil=1\n"))
			w.vm.Run("echo 'default evil.conf' >>/efi/loader/loader.conf")
		}, []string{"untrusted", "command line", "lab.evil=1"}, "evil.conf"},
		{"a swapped kernel", func(w *world) { w.replaceUKI(image.Release{Version: "1.0.0", OtherKernel: true}) },
			[]string{"failed", "boot application"}, "the fleet judged this boot untrusted"},
		{"another image", func(w *world) { w.replaceUKI(image.Release{Version: "6.6.6", Words: "lab.other=1"}) },
			[]string{"failed", "command line", "lab.other=1"}, "the fleet judged this boot untrusted"},
	}
}

// replaceUKI overwrites the image that boots.
func (w *world) replaceUKI(r image.Release) {
	w.Helper()
	r.Deb = w.deb
	data, err := os.ReadFile(w.build(r).UKI("a"))
	w.check(err)
	w.vm.Put(running, data)
}

// Story 3: each alteration is named by the verdict, and the sealed secret stays shut;
// what is put right is trusted again.
func TestAnAlteredBootIsNamedAndItsSecretStaysShut(t *testing.T) {
	w := newWorld(t, setup{})
	w.enrol()
	w.seal()
	w.vm.Run("cp " + running + " /var/lib/lab/good.efi; cp /efi/loader/loader.conf /var/lib/lab/")
	for _, c := range tamperings() {
		began := time.Now()
		c.alter(w)
		w.vm.Run("sync")
		w.vm.Reboot()
		s := w.judged("untrusted", began)
		t.Logf("%s (%.0f s): %s", c.name, time.Since(began).Seconds(), s.Verdict.Explanation[0])
		w.says(w.explanation(), c.says...)
		t.Log(strings.Join(w.explanation(), "\n"))
		w.staysShut(c.shut)
		if !strings.HasPrefix(s.Link.Identity, "q-") {
			t.Errorf("%s: the gateway is connected as %s, not in quarantine", c.name, s.Link.Identity)
		}
		w.vm.Run("rm -f " + entry + "; cp /var/lib/lab/good.efi " + running + "; cp /var/lib/lab/loader.conf /efi/loader/; sync")
		healed := time.Now()
		w.vm.Reboot()
		w.judged(trusted, healed)
		w.opens()
		if quick() {
			break
		}
	}
}
