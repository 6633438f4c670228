package attest

// shimLock is the vendor GUID of shim's variables.
const shimLock = "605dab50-e046-4300-abb6-3dd810dd8b23"

// Shim is what shim says of itself in PCR 7.
type Shim struct {
	Validation string `json:"validation"`     // "off" if it was told to start anything, "unknown" if PCR 7 has what can't be read, else "on"
	SBAT       string `json:"sbat,omitempty"` // generations below which it starts nothing
}

// shim reads shim's variables in PCR 7, whose names the digest covers.
func (x *extractor) shim(v *Variable, contents []byte) {
	if x.facts.Shim == nil {
		x.facts.Shim = &Shim{Validation: "on"}
	}
	switch v.Name {
	case "MokSBState":
		if len(contents) != 1 || contents[0] != 0 {
			x.facts.Shim.Validation = "off"
		}
	case "SbatLevel":
		v.readAuthority(contents)
		x.facts.Shim.SBAT = v.Text
	}
}

// mok reads PCR 14, where digests cover contents, but not names. Shim measures the
// keys and hashes of the machine's owner there; what of them verified an image is in
// PCR 7 too.
func (x *extractor) mok(e *LogEvent) {
	x.facts.MOK = append(x.facts.MOK, Loaded{Event: e.Index, Digest: e.Digest, Described: clean(ipl(e))})
}
