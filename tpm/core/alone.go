package core

import "github.com/google/go-tpm/tpm2"

// sweep flushes what a predecessor that was killed left in a chip without a resource
// manager: objects, and sessions that are loaded. Saved sessions stay: they are those
// of users of the kernel's resource manager, which empties the chip after each command.
func (o *op) sweep() error {
	for _, first := range []tpm2.TPMHandle{transientFirst, sessionFirst} {
		rsp, err := tpm2.GetCapability{
			Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: maxCapHandles,
		}.Execute(o)
		if err != nil {
			return err
		}
		left, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return err
		}
		for _, h := range left.Handle {
			if err := o.flush(h); err != nil {
				return err
			}
		}
	}
	o.t.swept = true
	return nil
}

// shutDown tells the chip that its power may go (TPM2_Shutdown, Part 3, 9.4), so that
// it need not take the next start for the end of an attack. Whatever is asked of it
// afterwards takes this back.
func (t *TPM) shutDown() {
	o := &op{t: t}
	_ = o.cleanly(func() error {
		_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(o)
		return err
	})
}
