package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/internal/fsx"
)

const (
	passphraseCredential = "ca-passphrase" // LoadCredential= or LoadCredentialEncrypted= of the unit
	maxPassphrase        = 1 << 10         // bytes
)

// Vault is the folder of the fleet's CA with the passphrase that opens it. The
// passphrase of the root's key is another one, and is not known here.
func (s *Settings) Vault() (*ca.Vault, error) {
	v := &ca.Vault{Dir: filepath.Join(s.State, "ca")}
	path := s.CAPassphrase
	if folder := os.Getenv("CREDENTIALS_DIRECTORY"); path == "" && folder != "" {
		path = filepath.Join(folder, passphraseCredential)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return v, nil
		}
	}
	if path == "" {
		return v, nil
	}
	var err error
	v.Passphrase, err = ReadPassphrase(path)
	return v, err
}

// ReadPassphrase reads a passphrase from a file: all of it but a line end behind.
func ReadPassphrase(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&0o007 != 0 {
		err = fmt.Errorf("%s is open to everybody (%s): chmod 600 it", path, info.Mode().Perm())
	}
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	data, err := (&fsx.FS{}).ReadFile(path, maxPassphrase)
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	if data = bytes.TrimRight(data, "\r\n"); len(data) == 0 {
		return nil, fmt.Errorf("read passphrase: %s is empty", path)
	}
	return data, nil
}
