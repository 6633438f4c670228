package ca

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
)

// PEM types of PKCS #8 (RFC 7468, sections 10 and 11).
const (
	pemPlain     = "PRIVATE KEY"
	pemEncrypted = "ENCRYPTED PRIVATE KEY"
)

const (
	iterations    = 600_000    // of PBKDF2, what we write
	maxIterations = 10_000_000 // what we read
	saltSize      = 16         // bytes
)

// ErrPassphrase says that a key can't be opened with the passphrase given, or that
// none was given.
var ErrPassphrase = errors.New("the key is encrypted, and the passphrase is missing or wrong")

// encryptedKey is EncryptedPrivateKeyInfo (RFC 5958, section 3), with PBES2
// (RFC 8018, appendix A.4), PBKDF2 with HMAC-SHA-256 and AES-256-CBC: what
// `openssl pkcs8` writes and reads.
type encryptedKey struct {
	Algorithm struct {
		ID         asn1.ObjectIdentifier
		Parameters pbes2
	}
	Data []byte
}

type pbes2 struct {
	KDF struct {
		ID         asn1.ObjectIdentifier
		Parameters struct {
			Salt       []byte
			Iterations int
			KeyLength  int `asn1:"optional"`
			PRF        pkix.AlgorithmIdentifier
		}
	}
	Cipher struct {
		ID asn1.ObjectIdentifier
		IV []byte
	}
}

func oidPBES2() asn1.ObjectIdentifier  { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13} }
func oidPBKDF2() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12} }
func oidHMACSHA256() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
}
func oidAES256CBC() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
}

// encryptKey wraps a PKCS #8 key.
func encryptKey(der, passphrase []byte) ([]byte, error) {
	var e encryptedKey
	random := make([]byte, saltSize+aes.BlockSize)
	if _, err := rand.Read(random); err != nil {
		return nil, fmt.Errorf("encrypt key: %w", err)
	}
	p := &e.Algorithm.Parameters
	e.Algorithm.ID, p.KDF.ID, p.Cipher.ID = oidPBES2(), oidPBKDF2(), oidAES256CBC()
	p.KDF.Parameters.Salt, p.KDF.Parameters.Iterations, p.Cipher.IV = random[:saltSize], iterations, random[saltSize:]
	p.KDF.Parameters.PRF = pkix.AlgorithmIdentifier{Algorithm: oidHMACSHA256(), Parameters: asn1.NullRawValue}
	block, err := p.cipher(passphrase)
	if err != nil {
		return nil, fmt.Errorf("encrypt key: %w", err)
	}
	n := aes.BlockSize - len(der)%aes.BlockSize
	for range n {
		der = append(der, byte(n))
	}
	e.Data = make([]byte, len(der))
	cipher.NewCBCEncrypter(block, p.Cipher.IV).CryptBlocks(e.Data, der)
	return asn1.Marshal(e)
}

// decryptKey opens what encryptKey, or openssl with the same algorithms, made.
func decryptKey(der, passphrase []byte) ([]byte, error) {
	var e encryptedKey
	if rest, err := asn1.Unmarshal(der, &e); err != nil || len(rest) > 0 {
		return nil, errors.New("the key is not PKCS #8 with PBES2")
	}
	p := &e.Algorithm.Parameters
	n := p.KDF.Parameters.Iterations
	switch {
	case !e.Algorithm.ID.Equal(oidPBES2()), !p.KDF.ID.Equal(oidPBKDF2()), !p.KDF.Parameters.PRF.Algorithm.Equal(oidHMACSHA256()), !p.Cipher.ID.Equal(oidAES256CBC()):
		return nil, errors.New("the key is not encrypted with PBKDF2, HMAC-SHA-256 and AES-256-CBC")
	case n < 1 || n > maxIterations || len(p.Cipher.IV) != aes.BlockSize || len(e.Data) == 0 || len(e.Data)%aes.BlockSize != 0:
		return nil, errors.New("the encrypted key is damaged")
	case passphrase == nil:
		return nil, ErrPassphrase
	}
	block, err := p.cipher(passphrase)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(e.Data))
	cipher.NewCBCDecrypter(block, p.Cipher.IV).CryptBlocks(plain, e.Data)
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > aes.BlockSize {
		return nil, ErrPassphrase
	}
	for _, b := range plain[len(plain)-pad:] {
		if int(b) != pad {
			return nil, ErrPassphrase
		}
	}
	return plain[:len(plain)-pad], nil
}

func (p *pbes2) cipher(passphrase []byte) (cipher.Block, error) {
	key, err := pbkdf2.Key(sha256.New, string(passphrase), p.KDF.Parameters.Salt, p.KDF.Parameters.Iterations, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return aes.NewCipher(key)
}
