package doctor

// nvRoom is whether the epoch counter has room.
func nvRoom() *Check {
	return &Check{
		Name: "nv", About: "room for the epoch counter in the TPM's NV memory", For: "seal",
		Cases: `
full problem seal
The TPM has no room for a counter. Without one an old release can't be told from a new one by the chip, and nothing can be sealed.
"tpm2_getcap handles-nv-index" lists what is there; remove what nobody needs, with "tpm2_nvundefine" and "tpm2_evictcontrol". Certificates at 0x01c00000 to 0x01c07fff are the maker's: leave them.
`,
		Ask: func(c *Chip, _ *Machine, n *notes) {
			switch {
			case c.Counter:
				n.ok("there is an index where the counter belongs")
			case c.NVCountersAvail == 0:
				n.is("full", "%d NV indexes, %d persistent objects, room for no counter", c.NVIndexes, len(c.Persistent))
			default:
				n.ok("room for %d counters", c.NVCountersAvail)
			}
		},
	}
}
