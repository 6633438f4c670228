package attest

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// utf16Text decodes UTF-16 (little endian) with or without one terminating zero.
// ok is false if there are zeros within, or surrogates without their other half.
func utf16Text(data []byte) (text string, ok bool) {
	if len(data)%2 != 0 {
		return "", false
	}
	if n := len(data); n >= 2 && data[n-1] == 0 && data[n-2] == 0 {
		data = data[:n-2]
	}
	var b strings.Builder
	b.Grow(len(data) / 2)
	for i := 0; i < len(data); i += 2 {
		r := rune(binary.LittleEndian.Uint16(data[i:]))
		if utf16.IsSurrogate(r) {
			if i+4 > len(data) {
				return "", false
			}
			r = utf16.DecodeRune(r, rune(binary.LittleEndian.Uint16(data[i+2:])))
			i += 2
		}
		if r == 0 || r == unicode.ReplacementChar {
			return "", false
		}
		b.WriteRune(r)
	}
	return b.String(), true
}

// utf16Bytes encodes text as UTF-16 (little endian) with a terminating zero.
func utf16Bytes(text string) []byte {
	out := make([]byte, 0, 2*len(text)+2)
	for _, r := range text {
		if r1, r2 := utf16.EncodeRune(r); r1 != unicode.ReplacementChar {
			out = binary.LittleEndian.AppendUint16(out, uint16(r1))
			r = r2
		}
		out = binary.LittleEndian.AppendUint16(out, uint16(r))
	}
	return append(out, 0, 0)
}

// clean makes text of a machine fit to be shown to a person: one line of
// printable characters, at most maxText of them.
func clean(text string) string {
	if len(text) <= maxText && isPrintable(text) {
		return text
	}
	var b strings.Builder
	count := 0
	for _, r := range text {
		if count++; count > maxText {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isPrintable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// guidText formats an EFI_GUID.
func guidText(g []byte) string {
	if len(g) != 16 {
		return "(no GUID)"
	}
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}
