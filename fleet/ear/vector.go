package ear

import (
	"slices"

	"github.com/gatewarden/gatewarden/attest"
)

// Values of trustworthiness claims (draft-ietf-rats-ar4si, section 2.3). A claim that
// nothing was found out about is left out.
const (
	recognizedInstance = 2  // instance-identity: known, and not known to be compromised
	approvedConfig     = 2  // configuration: known and approved
	noKnownFlaws       = 3  // configuration: exposes no known vulnerabilities
	unsafeConfig       = 32 // configuration: exposes known vulnerabilities
	unsupportable      = 96 // configuration: unacceptable
	approvedRuntime    = 2  // executables: only approved ones were loaded, during the boot and since
	approvedBoot       = 3  // executables: only approved ones were loaded during the boot
	unrecognized       = 33 // executables: others were loaded
	contraindicated    = 96 // executables: others were loaded, and the policy distrusts them
	notProven          = 99 // executables: cryptographic validation of the evidence failed
	genuineHardware    = 2  // hardware: genuine, firmware included
	unsafeHardware     = 32 // hardware: genuine, with known flaws
)

// The rules of attest that a claim rests on, by the name that policies know.
func executableRules() []string {
	return []string{"event-log", "boot-application", "boot-phases", "uki-sections", "grub", "extensions", "ima", "ima-files", "ima-signatures", "ima-violations", "clock"}
}

// vectorOf says of each trustworthiness claim what the rules found. The tier of a
// value follows what a failure costs by the policy: what is only noted, or excepted,
// costs nothing. File system, run time and storage are not judged, and not claimed.
func vectorOf(a Appraisal) map[string]int {
	vector := map[string]int{"instance-identity": recognizedInstance, "executables": executablesOf(a.Rules, a.Files), "configuration": configurationOf(a.Rules)}
	switch {
	case cost(a.Rules, "firmware-state") != attest.Trusted:
		vector["hardware"] = unsafeHardware
	case a.Genuine && held(a.Rules, "firmware"):
		vector["hardware"] = genuineHardware
	}
	return vector
}

func executablesOf(rules []attest.RuleResult, files bool) int {
	worst := attest.Trusted
	for _, name := range executableRules() {
		switch cost(rules, name) {
		case attest.Untrusted:
			worst = attest.Untrusted
		case attest.Degraded:
			if worst == attest.Trusted {
				worst = attest.Degraded
			}
		}
	}
	switch {
	case !held(rules, "pcr-replay"):
		return notProven
	case worst == attest.Untrusted:
		return contraindicated
	case worst == attest.Degraded:
		return unrecognized
	case files && held(rules, "ima") && held(rules, "ima-files") && held(rules, "ima-signatures") && held(rules, "ima-violations"):
		return approvedRuntime
	}
	return approvedBoot
}

func configurationOf(rules []attest.RuleResult) int {
	switch {
	case cost(rules, "command-line") != attest.Trusted:
		return unsupportable
	case cost(rules, "secure-boot") != attest.Trusted, cost(rules, "secure-boot-keys") != attest.Trusted:
		return unsafeConfig
	case held(rules, "command-line") && held(rules, "secure-boot") && held(rules, "secure-boot-keys"):
		return approvedConfig
	}
	return noKnownFlaws
}

func find(rules []attest.RuleResult, name string) (attest.RuleResult, bool) {
	at := slices.IndexFunc(rules, func(r attest.RuleResult) bool { return r.Rule == name })
	if at < 0 {
		return attest.RuleResult{}, false
	}
	return rules[at], true
}

// held reports whether a rule was asked and held.
func held(rules []attest.RuleResult, name string) bool {
	r, ok := find(rules, name)
	return ok && r.OK
}

// cost is the grade that a rule alone would leave. One that was not asked proves
// nothing, so it costs all.
func cost(rules []attest.RuleResult, name string) attest.Grade {
	r, ok := find(rules, name)
	switch {
	case !ok:
		return attest.Untrusted
	case r.OK:
		return attest.Trusted
	}
	return r.Effect
}
