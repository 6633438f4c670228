package doctor

import (
	"context"

	"github.com/gatewarden/gatewarden/agent/secret"
)

// verity is whether the root file system is part of what is measured.
func verity() *Check {
	return &Check{
		Name: "verity", About: "whether dm-verity covers the root file system", For: "attest seal",
		Cases: `
none advice attest seal
The root file system is not covered by what is measured: whoever writes to the disk, or pulls it out, can change the programs that run and that read sealed secrets.
Build the root with dm-verity and put its root hash on the kernel command line of a UKI (roothash=, or dm-mod.create=).
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			line, err := m.word("/proc/cmdline")
			if err != nil {
				n.unseen("read the kernel command line", err)
				return
			}
			if !secret.HashesRoot(line) {
				n.is("none", "the kernel command line has no dm-verity root hash")
				return
			}
			n.ok("the kernel command line has a root hash")
		},
	}
}
