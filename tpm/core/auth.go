package core

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
)

// Auth are the passwords of the chip's hierarchies, nil where there is none. They
// are used and never set or changed. They don't cross the bus, but who records it
// can try guesses: a password should be 32 random bytes.
type Auth struct {
	Owner       []byte
	Endorsement []byte
}

// ReadAuth reads the files tpm-owner-auth and tpm-endorsement-auth of a folder of
// credentials, such as $CREDENTIALS_DIRECTORY; "" is a folder without any. A newline
// at the end of a file does not count.
func ReadAuth(folder string) (Auth, error) {
	var a Auth
	for name, value := range map[string]*[]byte{"tpm-owner-auth": &a.Owner, "tpm-endorsement-auth": &a.Endorsement} {
		if folder == "" {
			break
		}
		data, err := os.ReadFile(filepath.Join(folder, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Auth{}, fmt.Errorf("read TPM password: %w", err)
		}
		// The chip ignores zeros at the end (Part 1, 19.6.4.3).
		data = bytes.TrimRight(bytes.TrimSuffix(data, []byte("\n")), "\x00")
		if len(data) > maxAuth {
			return Auth{}, fmt.Errorf("read TPM password: %s has %d bytes, more than %d", name, len(data), maxAuth)
		}
		*value = data
	}
	return a, nil
}

// hierarchy authorises the use of a hierarchy. The session must be flushed if the
// command that it is for did not reach the chip.
func (o *op) hierarchy(h tpm2.TPMHandle) tpm2.AuthHandle {
	secret := o.t.auth.Owner
	if h == tpm2.TPMRHEndorsement {
		secret = o.t.auth.Endorsement
	}
	auth := tpm2.PasswordAuth(nil)
	if len(secret) != 0 {
		auth = tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Auth(secret))
	}
	return tpm2.AuthHandle{Handle: h, Auth: auth}
}
