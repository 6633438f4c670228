package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm/core"
)

// keyFile is a TSS2 PRIVATE KEY file (draft-bottomley-tpm2-keys): what the chip
// needs to load a key again. Before the PEM block stands a line with the SHA-256
// of the block's contents, which readers of PEM skip; it tells a damaged file from
// one that belongs to another chip.
type keyFile struct {
	parent  tpm2.TPMHandle
	public  tpm2.TPMTPublic
	private tpm2.TPM2BPrivate
}

const (
	pemType       = "TSS2 PRIVATE KEY"
	checksumLabel = "SHA-256 of the block: "
)

// tpmKey is the ASN.1 of the file.
type tpmKey struct {
	Type      asn1.ObjectIdentifier
	EmptyAuth bool `asn1:"optional,explicit,tag:0"`
	Parent    int64
	Public    []byte // TPM2B_PUBLIC
	Private   []byte // TPM2B_PRIVATE
}

// loadableKey is 2.23.133.10.1.3, id-loadablekey.
func loadableKey() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3} }

func (f keyFile) encode() ([]byte, error) {
	der, err := asn1.Marshal(tpmKey{
		Type:      loadableKey(),
		EmptyAuth: true,
		Parent:    int64(f.parent),
		Public:    tpm2.Marshal(tpm2.New2B(f.public)),
		Private:   tpm2.Marshal(f.private),
	})
	if err != nil {
		return nil, fmt.Errorf("encode key file: %w", err)
	}
	sum := sha256.Sum256(der)
	text := checksumLabel + hex.EncodeToString(sum[:]) + "\n"
	return append([]byte(text), pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})...), nil
}

// parseKeyFile decodes a file. What it accepts was encoded by encode, or by another
// program in the same format without a line before the block.
func parseKeyFile(data []byte) (keyFile, error) {
	der, err := pemBlock(data)
	if err != nil {
		return keyFile{}, err
	}
	var k tpmKey
	rest, err := asn1.Unmarshal(der, &k)
	if err != nil {
		return keyFile{}, err
	}
	if len(rest) != 0 || !k.Type.Equal(loadableKey()) || k.Parent < 0 || k.Parent > 0xffffffff ||
		len(k.Public) > maxKeyPart || len(k.Private) > maxKeyPart {
		return keyFile{}, errors.New("not a loadable key")
	}
	if !k.EmptyAuth {
		return keyFile{}, errors.New("a key with a password can't be used without a person")
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](k.Public)
	if err != nil {
		return keyFile{}, err
	}
	area, err := public.Contents()
	if err != nil {
		return keyFile{}, err
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](k.Private)
	if err != nil {
		return keyFile{}, err
	}
	if _, _, err := signingKey(*area); err != nil {
		return keyFile{}, err
	}
	return keyFile{parent: tpm2.TPMHandle(k.Parent), public: *area, private: *private}, nil
}

func pemBlock(data []byte) ([]byte, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("larger than %d bytes", maxKeyFile)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemType {
		return nil, errors.New("no " + pemType + " block")
	}
	if want := checksum(data); want != "" {
		sum := sha256.Sum256(block.Bytes)
		if hex.EncodeToString(sum[:]) != want {
			return nil, errors.New("checksum differs")
		}
	}
	return block.Bytes, nil
}

// checksum is the one that encode wrote, or "".
func checksum(data []byte) string {
	rest, found := bytes.CutPrefix(data, []byte(checksumLabel))
	line, _, ended := bytes.Cut(rest, []byte("\n"))
	if !found || !ended {
		return ""
	}
	return string(line)
}

// LoadKey loads a key that CreateKey made. Errors: ErrDamaged if the file can't be
// read, ErrReplaced if this chip, or its present owner seed, did not make it.
func (t *TPM) LoadKey(ctx context.Context, pem []byte) (*Key, error) {
	file, err := parseKeyFile(pem)
	if err != nil {
		return nil, fmt.Errorf("load TPM key: %w", core.Classify(ErrDamaged, "restore the file or enrol again", err))
	}
	var key *Key
	err = t.Do(ctx, "load TPM key", func(c *Chip) error {
		obj, err := loadFile(c, file)
		if err != nil {
			return err
		}
		key, err = t.newKey(obj, file)
		return err
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// loadFile tries the storage keys that may have wrapped the key.
func loadFile(c *Chip, file keyFile) (*core.Object, error) {
	if file.parent != core.HandleSRK && file.parent != tpm2.TPMRHOwner {
		return nil, core.Classify(ErrDamaged, "only keys under the storage key are loaded",
			fmt.Errorf("parent handle %#x", uint32(file.parent)))
	}
	var obj *core.Object
	err := c.Parents(uint32(file.parent), func(parent StorageKey) (done bool, err error) {
		obj, err = load(c, parent, tpm2.New2B(file.public), file.private, file.public)
		switch {
		case errors.Is(err, tpm2.TPMRCIntegrity):
			return false, nil // wrapped by another parent
		case damagedBlob(err):
			return false, core.Classify(ErrDamaged, "restore the file or enrol again", err)
		}
		return true, err
	})
	if err == nil && obj == nil {
		err = core.Classify(ErrReplaced, "the TPM was cleared or exchanged, or the file is damaged: enrol again", nil)
	}
	return obj, err
}

// damagedBlob tells the answers of TPM2_Load to a public or private part that does
// not fit (TPM 2.0 Part 3, 12.2).
func damagedBlob(err error) bool {
	for _, rc := range []tpm2.TPMRC{
		tpm2.TPMRCBinding, tpm2.TPMRCSize, tpm2.TPMRCInsufficient, tpm2.TPMRCSensitive, tpm2.TPMRCHash,
		tpm2.TPMRCKey, tpm2.TPMRCType, tpm2.TPMRCAttributes, tpm2.TPMRCValue, tpm2.TPMRCECCPoint,
	} {
		if errors.Is(err, rc) {
			return true
		}
	}
	return false
}
