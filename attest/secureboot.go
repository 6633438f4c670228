package attest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Variable is a measured UEFI variable.
type Variable struct {
	PCR          int      `json:"pcr"`
	Event        int      `json:"event"`
	Name         string   `json:"name"`
	Digest       Digest   `json:"digest"`                 // SHA-256 of its contents
	Text         string   `json:"text,omitempty"`         // what it says, where that is text; Digest covers it
	Certificates []Digest `json:"certificates,omitempty"` // SHA-256 of each X.509 certificate in it
	Subjects     []string `json:"subjects,omitempty"`     // common name in each of these
	Hashes       int      `json:"hashes,omitempty"`       // of a signature list: image hashes in it, count
	Others       int      `json:"others,omitempty"`       // of a signature list: signatures of other kinds, count
	Doubt        string   `json:"doubt,omitempty"`        // what of this no digest covers, or why it can't be read
}

const (
	globalVariable = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	imageSecurity  = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	certSHA256     = "c1c41626-504c-4092-aca9-41f936934328"
	certX509       = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"
)

// secureBoot reads PCR 7. State and keys count only before its separator: what
// follows may be anybody's.
func (x *extractor) secureBoot(e *LogEvent) {
	if signal, ok := x.marks.signals[e.Digest]; ok {
		x.facts.Signals = append(x.facts.Signals, signal)
		return
	}
	data := e.Data
	if n := len(data); n > 0 && !e.covers(data) && e.covers(data[:n-1]) {
		data = data[:n-1] // shim before 15.4 logs a byte more than it measures, see variablePadding
	}
	v, contents, err := parseVariable(e, data)
	switch {
	case err != nil:
		x.unread(e, ipl(e))
		return
	case !e.covers(data):
		x.unread(e, "described as "+v.Name)
		return
	}
	guid, name := guidText(data[:16]), v.Name
	if guid == shimLock {
		x.shim(&v, contents)
	}
	switch {
	case x.closed7:
		v.readAuthority(contents)
		x.facts.Authorities = append(x.facts.Authorities, v)
	case guid == globalVariable && name == "SecureBoot":
		x.secure++
		x.facts.SecureBoot = "off"
		if len(contents) == 1 && contents[0] == 1 {
			x.facts.SecureBoot = "on"
		} else if len(contents) > 1 || (len(contents) == 1 && contents[0] != 0) {
			x.facts.SecureBoot = "unknown"
		}
	case guid == globalVariable && (name == "PK" || name == "KEK"),
		guid == imageSecurity && (name == "db" || name == "dbx" || name == "dbt" || name == "dbr"):
		v.readSignatures(contents)
		x.facts.Keys = append(x.facts.Keys, v)
	default:
		x.facts.Keys = append(x.facts.Keys, v)
	}
}

// bootVariable reads EV_EFI_VARIABLE_BOOT, whose digest covers the contents only,
// and EV_EFI_VARIABLE_BOOT2, whose digest covers the name too.
func (x *extractor) bootVariable(e *LogEvent) {
	if e.Type != evVariableBoot && e.Type != evVariableBoot2 {
		return
	}
	v, contents, err := parseVariable(e, e.Data)
	if err != nil || !e.covers(e.Data) && !e.covers(contents) {
		x.unread(e, "boot variable that no digest covers")
		return
	}
	if !e.covers(e.Data) {
		v.Doubt = "no digest covers the name"
	}
	if isBootOption(v.Name) {
		v.Text, _ = bootOption(contents)
	}
	x.facts.BootVariables = append(x.facts.BootVariables, v)
}

// variablePadding is how many zeros may follow a variable: shim before 15.4 measures
// that of the structure in its memory along.
const variablePadding = 7

// parseVariable reads UEFI_VARIABLE_DATA (Platform Firmware Profile, section 10.2.6).
func parseVariable(e *LogEvent, data []byte) (Variable, []byte, error) {
	c := &cursor{data: data, order: binary.LittleEndian}
	c.take(16, "GUID")
	units, size := c.u64("name length"), c.u64("data length")
	if units > uint64(len(data)) {
		c.fail(16, "name of %d characters", units)
	}
	name, ok := utf16Text(c.take(2*units, "name"))
	contents := c.take(size, "data")
	if rest := c.left(); rest <= variablePadding && padding(data[c.pos:]) && data[c.pos] == 0 {
		c.take(uint64(rest), "padding")
	}
	if err := c.end("variable"); err != nil {
		return Variable{}, nil, err
	}
	if !ok {
		return Variable{}, nil, fmt.Errorf("name is not UTF-16")
	}
	return Variable{PCR: e.PCR, Event: e.Index, Name: clean(name), Digest: sha256.Sum256(contents)}, contents, nil
}

// readSignatures fills in what a signature database holds.
func (v *Variable) readSignatures(contents []byte) {
	err := walkSignatures(contents, func(kind string, signature []byte) {
		switch kind {
		case certX509:
			v.addCertificate(signature)
		case certSHA256:
			v.Hashes++
		default:
			v.Others++
		}
	})
	if err != nil {
		v.Certificates, v.Subjects, v.Hashes, v.Others = nil, nil, 0, 0
		v.Doubt = clean("its signature list is malformed " + err.Error())
	}
}

func (v *Variable) addCertificate(der []byte) {
	subject := ""
	if c, err := x509.ParseCertificate(der); err == nil {
		subject = clean(c.Subject.CommonName)
	}
	v.Certificates = append(v.Certificates, sha256.Sum256(der))
	v.Subjects = append(v.Subjects, subject)
}

// readAuthority reads what EV_EFI_VARIABLE_AUTHORITY holds (Platform Firmware
// Profile 1.06, section 3.3.4.8): the EFI_SIGNATURE_DATA that verified an image,
// whose owner some firmware and shim leave out; or text, as shim's SBAT level is.
func (v *Variable) readAuthority(contents []byte) {
	const owner = 16
	switch {
	case isDER(contents):
		v.addCertificate(contents)
	case len(contents) > owner && isDER(contents[owner:]):
		v.addCertificate(contents[owner:])
	case isPrintable(strings.ReplaceAll(string(contents), "\n", " ")):
		v.Text = clean(strings.TrimSpace(strings.ReplaceAll(string(contents), "\n", " ")))
	}
}

// isDER reports whether data is one ASN.1 sequence, with a length of two bytes.
func isDER(data []byte) bool {
	return len(data) >= 4 && data[0] == 0x30 && data[1] == 0x82 && int(binary.BigEndian.Uint16(data[2:])) == len(data)-4
}

// isBootOption knows Boot0000 and the like.
func isBootOption(name string) bool {
	if len(name) != 8 || !strings.HasPrefix(name, "Boot") {
		return false
	}
	_, err := strconv.ParseUint(name[4:], 16, 16)
	return err == nil
}

// walkSignatures reads a sequence of EFI_SIGNATURE_LIST (UEFI 2.10, section
// 32.4.1) strictly: sizes that do not add up, or a header where the type has
// none, are refused. Otherwise bytes of the header would pass for signatures.
func walkSignatures(data []byte, each func(kind string, signature []byte)) error {
	c := &cursor{data: data, order: binary.LittleEndian}
	for c.err == nil && c.left() > 0 {
		at := c.pos
		kind := guidText(c.take(16, "signature type"))
		list, header, size := c.u32("list size"), c.u32("header size"), c.u32("signature size")
		if c.err != nil {
			break
		}
		if list < 28 || header > list-28 || size < 16 || (list-28-header)%size != 0 {
			c.fail(at, "list of %d bytes with a header of %d and signatures of %d", list, header, size)
			break
		}
		if err := checkSignatureKind(kind, header, size); err != nil {
			c.fail(at, "%v", err)
			break
		}
		body := c.take(uint64(list)-28, "signature list")
		for body = body[min(int(header), len(body)):]; len(body) >= int(size); body = body[size:] {
			each(kind, body[16:size])
		}
	}
	return c.err
}

func checkSignatureKind(kind string, header, size uint32) error {
	if (kind == certX509 || kind == certSHA256) && header != 0 {
		return fmt.Errorf("signature type %s with a header of %d bytes", kind, header)
	}
	if kind == certSHA256 && size != 16+sha256.Size {
		return fmt.Errorf("SHA-256 signatures of %d bytes", size)
	}
	return nil
}
