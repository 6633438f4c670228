// Package tpmpolicy computes what a TPM 2.0 would compute: the digests of policies,
// the Names of the keys that approve them, and the signatures in systemd's
// tpm2-pcr-signature.json.
//
// Its promise: bytes in, digest out, no TPM needed; the one that signs a release
// and the one that seals to it get the same digest from the same facts. A policy is
// a value: each step makes a new digest, and none is changed.
package tpmpolicy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Digest is a policy digest, a PCR value or the fingerprint of a key: SHA-256. The
// zero value is the policy without a step. In JSON it is lower-case hex.
type Digest [sha256.Size]byte

// Command codes that go into policy digests (TPM 2.0 Part 2, 6.5.2).
const (
	ccPolicyNV        = 0x149
	ccPolicySigned    = 0x160
	ccPolicyAuthorize = 0x16a
	ccPolicyOR        = 0x171
	ccPolicyPCR       = 0x17f
	algSHA256         = 0x000b
)

// Comparison is an operation of NV: operand A is the content of the index (Part 2, 6.8).
type Comparison uint16

// The comparisons that this program uses.
const (
	Equal           Comparison = 0x0000
	UnsignedAtLeast Comparison = 0x0007
)

// step is the update of a policy digest (Part 3, 23.2.3): H(old || parts).
func (d Digest) step(parts ...[]byte) Digest {
	h := sha256.New()
	h.Write(d[:])
	for _, part := range parts {
		h.Write(part)
	}
	return Digest(h.Sum(nil))
}

func code(cc uint32) []byte { return binary.BigEndian.AppendUint32(nil, cc) }

// PCR adds "the PCRs of the SHA-256 bank have these values" (Part 3, 23.7).
func (d Digest) PCR(values map[int]Digest) (Digest, error) {
	pcrs := slices.Sorted(maps.Keys(values))
	selection, err := Selection(pcrs)
	if err != nil {
		return Digest{}, err
	}
	h := sha256.New()
	for _, pcr := range pcrs {
		value := values[pcr]
		h.Write(value[:])
	}
	return d.step(code(ccPolicyPCR), selection, h.Sum(nil)), nil
}

// Selection is the TPML_PCR_SELECTION (Part 2, 10.9.7) of PCRs in the SHA-256 bank.
func Selection(pcrs []int) ([]byte, error) {
	if len(pcrs) == 0 {
		return nil, errors.New("select PCRs: none is named")
	}
	bits := make([]byte, 3)
	for _, pcr := range pcrs {
		if pcr < 0 || pcr > lastPCR {
			return nil, fmt.Errorf("select PCRs: no PCR %d", pcr)
		}
		bits[pcr/8] |= 1 << (pcr % 8)
	}
	list := binary.BigEndian.AppendUint32(nil, 1)
	list = binary.BigEndian.AppendUint16(list, algSHA256)
	return append(append(list, byte(len(bits))), bits...), nil
}

// Authorize forgets all steps before it and adds "a policy that this key signed for
// ref was satisfied" (Part 3, 23.16). keyName is the key's Name.
func Authorize(keyName, ref []byte) Digest {
	return Digest{}.step(code(ccPolicyAuthorize), keyName).step(ref)
}

// Signed adds "this key signed for ref in this session" (Part 3, 23.3).
func (d Digest) Signed(keyName, ref []byte) Digest {
	return d.step(code(ccPolicySigned), keyName).step(ref)
}

// NV adds a comparison of the content of an NV index, from offset, with operand
// (Part 3, 23.9). name is the Name of the written index.
func (d Digest) NV(name, operand []byte, offset uint16, op Comparison) Digest {
	h := sha256.New()
	h.Write(operand)
	h.Write(binary.BigEndian.AppendUint16(nil, offset))
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(op)))
	return d.step(code(ccPolicyNV), h.Sum(nil), name)
}

// Counter adds "the NV counter has exactly this value".
func (d Digest) Counter(name []byte, value uint64) Digest {
	return d.NV(name, binary.BigEndian.AppendUint64(nil, value), 0, Equal)
}

// Or forgets all steps before it and adds "one of these is satisfied" (Part 3,
// 23.6). The chip wants two to eight; a single one is given twice.
func Or(branches []Digest) (Digest, error) {
	list, err := Branches(branches)
	if err != nil {
		return Digest{}, err
	}
	parts := [][]byte{code(ccPolicyOR)}
	for _, branch := range list {
		parts = append(parts, branch[:])
	}
	return Digest{}.step(parts...), nil
}

// Branches is the list that Or is about, as the chip must be given it.
func Branches(branches []Digest) ([]Digest, error) {
	switch n := len(branches); {
	case n == 0 || n > maxBranches:
		return nil, fmt.Errorf("join policies: %d branches, it must be 1 to %d", n, maxBranches)
	case n == 1:
		return []Digest{branches[0], branches[0]}, nil
	}
	return branches, nil
}

// IsZero tells a PCR that was never extended.
func (d Digest) IsZero() bool { return d == Digest{} }

// String is lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes lower-case hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes exactly what MarshalText writes.
func (d *Digest) UnmarshalText(text []byte) error {
	var read Digest
	if n, err := hex.Decode(read[:], text[:min(len(text), 2*len(read))]); err != nil || n != len(read) || read.String() != string(text) {
		return fmt.Errorf("%.70q is no SHA-256 value in 64 lower-case hex digits", text)
	}
	*d = read
	return nil
}
