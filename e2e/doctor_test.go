package e2e

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/agent/doctor"
)

// asMember is a prefix that runs a program as somebody in the groups that may ask.
const asMember = `setpriv --reuid=65534 --regid=65534 --groups="$(getent group gatewarden tss | cut -d: -f3 | paste -sd,)" `

// doctor asks the machine what it can do, as root or by another way.
func (w *world) doctor(as string) (d doctor.Diagnosis, exit string) {
	w.Helper()
	out := w.vm.Run(as + "gatewarden doctor --json; echo \"exit $?\"")
	text, exit, found := strings.Cut(out, "\nexit ")
	if err := json.Unmarshal([]byte(text), &d); err != nil || !found {
		w.Fatalf("gatewarden doctor: %v\n%s", err, out)
	}
	return d, strings.TrimSpace(exit)
}

// fits fails unless doctor finds that an enrolled gateway of the lab can do all, with
// what is well and what is not as it is there.
func (w *world) fits() {
	w.Helper()
	d, exit := w.doctor("")
	levels := map[string]string{}
	for _, f := range d.Findings {
		levels[f.Check] = f.Level
		if f.Case != "" {
			levels[f.Case] = f.Level
		}
		if f.Level != doctor.OK {
			w.Logf("%s %s: %s", f.Level, f.Case, f.Found)
		}
	}
	for _, check := range strings.Fields("tpm tpm-access pcrs event-log ek lockout nv config trust accounts helper agent product boot-loader kernel") {
		if levels[check] != doctor.OK {
			w.Errorf("%s is %q", check, levels[check])
		}
	}
	for _, name := range []string{"verity.none", "tpm-passwords.open"} {
		if levels[name] != doctor.Advice {
			w.Errorf("%s is not advised", name)
		}
	}
	for _, can := range d.Abilities {
		if can.Answer != "yes" {
			w.Errorf("%s: %s because of %q", can.Ability, can.Answer, can.Because)
		}
	}
	if exit != "0" || !d.Root {
		w.Errorf("exit code %s, root %t", exit, d.Root)
	}
	// Members of the groups see as much of the TPM, nothing of root's logs, and no problem.
	d, exit = w.doctor(asMember)
	for _, f := range d.Findings {
		logs := f.Check == "event-log" && f.Level == doctor.Unknown
		if f.Level == doctor.Problem || f.Check == "event-log" && !logs || f.Check == "tpm" && f.Level != doctor.OK {
			w.Errorf("a member of the groups is told %s %s %s: %s", f.Level, f.Check, f.Case, f.Found)
		}
	}
	if exit != "3" || d.Root {
		w.Errorf("to a member of the groups: exit code %s, root %t", exit, d.Root)
	}
}

// lacks fails unless doctor says that this case takes this ability away.
func (w *world) lacks(ability, name string) {
	w.Helper()
	d, exit := w.doctor("")
	i := slices.IndexFunc(d.Abilities, func(c doctor.Can) bool { return c.Ability == ability })
	if i < 0 || d.Abilities[i].Answer != "no" || !slices.Contains(d.Abilities[i].Because, name) || exit != "1" {
		w.Errorf("exit code %s, %+v", exit, d.Abilities)
	}
}
