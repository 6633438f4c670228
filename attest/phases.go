package attest

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// phaseOrder lists the boot-phase words that systemd-pcrphase extends into PCR 11,
// in the only order in which they occur (systemd-pcrphase.service(8)). They are
// in no firmware log.
func phaseOrder() []string {
	return []string{"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"}
}

// lockWord is extended by a device in quarantine, behind any phase, so that
// nothing sealed opens until the next boot.
const lockWord = "gatewarden-lock"

// defaultPhases are the paths of a machine with and without initrd. They lead on
// to the end: a gateway that attests while it shuts down is no worse for it.
// (Secrets are another matter: no sealing policy goes beyond "ready".)
func defaultPhases() [][]string { return [][]string{phaseOrder(), phaseOrder()[2:]} }

// checkPhases refuses a path with unknown words or in another order.
func checkPhases(path []string) error {
	last := -1
	for _, word := range path {
		at := slices.Index(phaseOrder(), word)
		if at < 0 {
			return fmt.Errorf("boot phase %q is not one of %s", word, strings.Join(phaseOrder(), ", "))
		}
		if at <= last {
			return fmt.Errorf("boot phases %s are out of order", strings.Join(path, ":"))
		}
		last = at
	}
	return nil
}

// findPhases looks for the words that lead from the log's PCR 11 to the quoted
// one: a prefix of one of paths, then lockWord or nothing.
func findPhases(paths [][]string, logged, quoted Digest) (words []string, ok bool) {
	lock := Digest(sha256.Sum256([]byte(lockWord)))
	for _, locked := range []bool{false, true} {
		for _, path := range paths {
			value := logged
			for n := 0; n <= len(path); n++ {
				switch {
				case !locked && value == quoted:
					return slices.Clone(path[:n]), true
				case locked && Extend(value, lock) == quoted:
					return append(slices.Clone(path[:n]), lockWord), true
				case n < len(path):
					value = Extend(value, sha256.Sum256([]byte(path[n])))
				}
			}
		}
	}
	return nil, false
}

// allowsPhases reports whether words are a prefix of one of the release's paths,
// with or without lockWord behind.
func (r *release) allowsPhases(words []string) bool {
	if n := len(words); n > 0 && words[n-1] == lockWord {
		words = words[:n-1]
	}
	return slices.ContainsFunc(r.phases, func(path []string) bool {
		return len(words) <= len(path) && slices.Equal(path[:len(words)], words)
	})
}
