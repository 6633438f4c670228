package seal

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
)

// Hex is a byte string that is lower-case hex in JSON.
type Hex []byte

// MarshalText writes lower-case hex.
func (h Hex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText takes exactly what MarshalText writes.
func (h *Hex) UnmarshalText(text []byte) error {
	read, err := hex.DecodeString(string(text))
	if err != nil || hex.EncodeToString(read) != string(text) {
		return fmt.Errorf("%.40q is no lower-case hex", text)
	}
	*h = read
	return nil
}

// header is all that a file says in clear. Its encoding is authenticated.
type header struct {
	Format   int              `json:"v"`
	Name     string           `json:"name"`
	Unit     string           `json:"unit,omitempty"`
	Ref      tpmpolicy.Ref    `json:"ref"`
	Key      []byte           `json:"key,omitempty"`     // SubjectPublicKeyInfo
	Literal  []pcrList        `json:"literal,omitempty"` // instead of Key
	Counter  Counter          `json:"counter"`
	PCR7     tpmpolicy.Digest `json:"pcr7"`
	Expected pcrList          `json:"expected"`           // the set of Ref as it was at sealing: for explanations only
	Recovery []byte           `json:"recovery,omitempty"` // SubjectPublicKeyInfo
	Storage  storage          `json:"storage"`
}

// storage names the storage key that wraps the sealed key.
type storage struct {
	Place uint32 `json:"place"`
	Name  Hex    `json:"name"`
}

type pcrValue struct {
	PCR   int              `json:"pcr"`
	Value tpmpolicy.Digest `json:"value"`
}

type pcrList []pcrValue

func listPCRs(values map[int]tpmpolicy.Digest) pcrList {
	var list pcrList
	for _, pcr := range slices.Sorted(maps.Keys(values)) {
		list = append(list, pcrValue{pcr, values[pcr]})
	}
	return list
}

func (l pcrList) values() map[int]tpmpolicy.Digest {
	values := make(map[int]tpmpolicy.Digest, len(l))
	for _, v := range l {
		values[v.PCR] = v.Value
	}
	return values
}
