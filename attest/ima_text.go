package attest

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// IMAFromText makes a binary list of the kernel's ascii_runtime_measurements, so
// that all else reads one form. It refuses, by its line, an entry whose template
// digest, in the hash of its bank, is not that of what the line says.
func IMAFromText(text []byte) ([]byte, error) {
	if len(text) > maxIMALog {
		return nil, fmt.Errorf("read ASCII IMA list: %d bytes, at most %d are allowed", len(text), maxIMALog)
	}
	var out []byte
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 4*maxIMATemplate)
	for n := 1; lines.Scan(); n++ {
		if lines.Text() == "" {
			continue
		}
		var err error
		if out, err = appendIMALine(out, lines.Text()); err != nil {
			return nil, fmt.Errorf("read ASCII IMA list: line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read ASCII IMA list: %w", err)
	}
	return out, nil
}

// appendIMALine reads `PCR digest template fields`.
func appendIMALine(out []byte, line string) ([]byte, error) {
	fields := strings.SplitN(line, " ", 4)
	if len(fields) != 4 {
		return nil, errors.New("it has not PCR, digest, template and fields")
	}
	pcr, err := strconv.ParseUint(strings.TrimSpace(fields[0]), 10, 8)
	if err != nil {
		return nil, fmt.Errorf("PCR %.20q", fields[0])
	}
	recorded, err := hex.DecodeString(fields[1])
	bank := imaBank(len(recorded))
	if err != nil || bank == nil {
		return nil, fmt.Errorf("digest %.80q", fields[1])
	}
	template := fields[2]
	if len(template) == 0 || len(template) > maxIMAName {
		return nil, fmt.Errorf("template name of %d bytes", len(template))
	}
	data, hashed, err := imaTemplate(template, fields[3])
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(hashed)
	if isZero(recorded) {
		sum = [sha1.Size]byte{} // a violation
	} else if bank.Write(hashed); !bytes.Equal(bank.Sum(nil), recorded) {
		return nil, fmt.Errorf("recorded digest %x, in the banks that are read the line gives %x", recorded, bank.Sum(nil))
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(pcr))
	out = append(out, sum[:]...)
	out = appendIMAField(out, []byte(template))
	if template == "ima" {
		return append(out, data...), nil
	}
	return appendIMAField(out, data), nil
}

// imaBank is the hash whose digests have size bytes, nil if there is none.
func imaBank(size int) hash.Hash {
	for _, bank := range []Algorithm{AlgSHA1, AlgSHA256, AlgSHA384, AlgSHA512} {
		if bank.size() == size {
			return bank.hash()
		}
	}
	return nil
}

// imaTemplate encodes the fields of a template as they stand in a binary list, and
// as the kernel hashes them.
func imaTemplate(template, text string) (data, hashed []byte, err error) {
	digest, rest, ok := strings.Cut(text, " ")
	if !ok {
		return nil, nil, errors.New("it has no path")
	}
	if template == "ima" {
		value, err := hex.DecodeString(digest)
		if err != nil || len(value) != sha1.Size || len(rest) >= 256 {
			return nil, nil, fmt.Errorf("file digest %.80q with a path of %d bytes", digest, len(rest))
		}
		data = appendIMAField(value[:sha1.Size:sha1.Size], []byte(rest))
		hashed = make([]byte, sha1.Size+256)
		copy(hashed, value)
		copy(hashed[sha1.Size:], rest)
		return data, hashed, nil
	}
	colon := strings.LastIndexByte(digest, ':')
	value, err := hex.DecodeString(digest[colon+1:])
	if err != nil || colon < 1 {
		return nil, nil, fmt.Errorf("file digest %.80q", digest)
	}
	data = appendIMAField(nil, append([]byte(digest[:colon]+":\x00"), value...))
	// Paths have no space: the kernel writes "_" for it. What follows is in hex.
	parts := strings.Split(rest, " ")
	data = appendIMAField(data, append([]byte(parts[0]), 0))
	extra, err := imaExtraFields(template)
	if err != nil || len(parts) > 1+extra {
		return nil, nil, fmt.Errorf("template %q with %d fields behind the path", template, len(parts)-1)
	}
	for i := range extra {
		var field []byte
		if 1+i < len(parts) {
			if field, err = imaExtra(template, i, parts[1+i]); err != nil {
				return nil, nil, err
			}
		}
		data = appendIMAField(data, field)
	}
	return data, data, nil
}

// imaExtraFields is how many fields follow the path.
func imaExtraFields(template string) (int, error) {
	switch template {
	case "ima-ng", "ima-ngv2":
		return 0, nil
	case "ima-sig", "ima-sigv2", "ima-buf":
		return 1, nil
	case "ima-modsig":
		return 3, nil
	}
	return 0, fmt.Errorf("template %q", template)
}

// imaExtra reads one of these: hex, but for the second digest of ima-modsig.
func imaExtra(template string, i int, text string) ([]byte, error) {
	prefix := ""
	if template == "ima-modsig" && i == 1 && text != "" {
		colon := strings.LastIndexByte(text, ':')
		prefix, text = text[:colon+1]+"\x00", text[colon+1:]
	}
	value, err := hex.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("field %.40q is not hex", text)
	}
	return append([]byte(prefix), value...), nil
}

func appendIMAField(out, field []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(out, uint32(len(field))), field...)
}
