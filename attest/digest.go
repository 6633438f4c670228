package attest

import (
	"encoding/hex"
	"fmt"
)

// String returns d in lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether d is all zero: no digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// short is d as operators see it in a sentence.
func (d Digest) short() string { return hex.EncodeToString(d[:4]) + "…" }

// MarshalJSON encodes d as a string of 64 lower-case hex digits.
func (d Digest) MarshalJSON() ([]byte, error) {
	out := make([]byte, 0, 2+hex.EncodedLen(len(d)))
	out = append(out, '"')
	out = hex.AppendEncode(out, d[:])
	return append(out, '"'), nil
}

// UnmarshalJSON takes exactly what MarshalJSON makes.
func (d *Digest) UnmarshalJSON(data []byte) error {
	if len(data) < 2 || data[0] != '"' || data[len(data)-1] != '"' {
		return fmt.Errorf("digest is not a string")
	}
	parsed, err := ParseDigest(string(data[1 : len(data)-1]))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// ParseDigest reads 64 lower-case hex digits.
func ParseDigest(text string) (Digest, error) {
	var d Digest
	if !isHexDigest(text) {
		return d, fmt.Errorf("digest is not 64 lower-case hex digits")
	}
	_, err := hex.Decode(d[:], []byte(text))
	return d, err
}

func isHexDigest(text string) bool {
	if len(text) != hex.EncodedLen(len(Digest{})) {
		return false
	}
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
