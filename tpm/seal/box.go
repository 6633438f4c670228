package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/gatewarden/gatewarden/tpm"
)

// close puts the secret into the file; open takes it out.
func (f *file) close(key, secret []byte) error {
	box, about, err := f.box(key)
	if err != nil {
		return err
	}
	f.Nonce = make([]byte, nonceSize)
	if _, err := rand.Read(f.Nonce); err != nil {
		return err
	}
	f.Box = box.Seal(nil, f.Nonce, secret, about)
	return nil
}

func (f *file) open(key []byte) ([]byte, error) {
	box, about, err := f.box(key)
	if err != nil {
		return nil, err
	}
	secret, err := box.Open(nil, f.Nonce, f.Box, about)
	if err != nil {
		return nil, fmt.Errorf("%w: the file was altered", tpm.ErrDamaged)
	}
	return secret, nil
}

func (f *file) box(key []byte) (cipher.AEAD, []byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	box, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, err
	}
	about, err := json.Marshal(f.Header)
	return box, about, err
}
