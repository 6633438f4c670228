package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
)

// file is a sealed secret on disk.
type file struct {
	Header  header `json:"header"`
	Public  []byte `json:"public"`  // TPM2B_PUBLIC of the sealed key
	Private []byte `json:"private"` // TPM2B_PRIVATE
	Nonce   []byte `json:"nonce"`
	Box     []byte `json:"box"` // the secret, AES-256-GCM; additional data is the header
}

// Info is what a sealed file says of itself.
type Info struct {
	Name    string
	Unit    string
	Ref     tpmpolicy.Ref
	Counter Counter
	Storage []byte // Name of the storage key
	Key     []byte // SubjectPublicKeyInfo of the PCR-policy key whose signatures open it; nil: fixed boots
	Boots   int    // that open it without a signature, count; 0 with Key
	// Recovery is the SubjectPublicKeyInfo of the key that opens it in any boot, or nil.
	Recovery []byte
}

// Inspect reads a sealed file without opening it. Errors: tpm.ErrDamaged.
func Inspect(blob []byte) (Info, error) {
	f, err := parse(blob)
	if err != nil {
		return Info{}, err
	}
	h := f.Header
	return Info{Name: h.Name, Unit: h.Unit, Ref: h.Ref, Counter: h.Counter, Storage: h.Storage.Name, Key: h.Key, Boots: len(h.Literal), Recovery: h.Recovery}, nil
}

func (f *file) encode() ([]byte, error) {
	data, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode sealed file: %w", err)
	}
	return append(data, '\n'), nil
}

// parse reads a file and checks that its policy is the one that its header tells.
func parse(blob []byte) (*file, error) {
	var f file
	err := fmt.Errorf("%d bytes, at most %d are allowed", len(blob), MaxBlob)
	if len(blob) <= MaxBlob {
		err = strictjson.Unmarshal(blob, &f)
	}
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return nil, fmt.Errorf("read sealed file: %w: %w", tpm.ErrDamaged, err)
	}
	return &f, nil
}

func (f *file) check() error {
	h := &f.Header
	if h.Format != format {
		return fmt.Errorf("v is %d, this software reads %d", h.Format, format)
	}
	if len(h.Name) > MaxName || len(h.Unit) > MaxName || len(f.Public) > maxPart || len(f.Private) > maxPart ||
		len(h.Counter.Name) > maxName || len(h.Storage.Name) > maxName || len(h.Literal) > maxLiteral {
		return errors.New("a part is too long")
	}
	if len(f.Nonce) != nonceSize || (h.Key == nil) == (len(h.Literal) == 0) {
		return errors.New("a part is missing")
	}
	for _, list := range append([]pcrList{h.Expected}, h.Literal...) {
		if !slices.Equal(slices.Sorted(maps.Keys(list.values())), h.Ref.PCRs) || len(list) != len(h.Ref.PCRs) {
			return errors.New("values of other PCRs than those of the policy")
		}
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](f.Public)
	if err != nil {
		return err
	}
	area, err := public.Contents()
	if err != nil {
		return err
	}
	policy, _, err := h.digest()
	if err != nil {
		return err
	}
	if !sealedArea(*area, policy) {
		return errors.New("the sealed key has another policy than the file tells")
	}
	return nil
}

// template is the public area of a sealed key: it opens by its policy only, never
// leaves the chip, and never counts towards a lockout.
func template(policy tpmpolicy.Digest) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgKeyedHash,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, AdminWithPolicy: true, NoDA: true},
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy[:]},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{}),
	}
}

// sealedArea compares all of a public area but what the chip chose.
func sealedArea(area tpm2.TPMTPublic, policy tpmpolicy.Digest) bool {
	want := template(policy)
	if area.Type != want.Type {
		return false
	}
	area.Unique = want.Unique
	return bytes.Equal(tpm2.Marshal(area), tpm2.Marshal(want))
}
