package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/helper/trust"
	"github.com/gatewarden/gatewarden/internal/softkey"
	"github.com/gatewarden/gatewarden/tpm/core"
)

// firstKeyFile is, in the trust folder of a gateway without a TPM, the public half of
// its first key, which root put there. The helper takes no one else's word for which
// device this is.
const firstKeyFile = "first-key.pem"

const maxFirstKey = 4 << 10 // bytes

// deviceName is what the device id derives from: the Name of the endorsement key or,
// where there is no trace of a TPM, of the first key.
func deviceName(ctx context.Context, c *helper.Config, chip string, auth core.Auth) ([]byte, error) {
	name, err := ekName(ctx, chip, auth)
	if err == nil || !softkey.NoTPM(chip) {
		return name, err
	}
	path := filepath.Join(c.Trust, firstKeyFile)
	first, readErr := trust.Read(c.FS, path, maxFirstKey, parseFirstKey)
	switch {
	case errors.Is(readErr, fs.ErrNotExist):
		return nil, fmt.Errorf("%w, and no %s says which device this is (docs/software-keys.md)", err, path)
	case readErr != nil:
		return nil, fmt.Errorf("read first key: %w", readErr)
	}
	return softkey.Name(*first), nil
}

func parseFirstKey(data []byte) (*[]byte, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("it holds no public key in PEM")
	}
	_, err := softkey.Parse(block.Bytes)
	return &block.Bytes, err
}

// countsEpochs says whether the security epoch is held by a counter in the TPM too. A
// machine that never had a TPM holds it by the helper's record alone; one that had
// its counter and lost it is to be told.
func countsEpochs(c *helper.Config, chip string) bool {
	_, err := os.Lstat(filepath.Join(c.State, counterName))
	if !errors.Is(err, fs.ErrNotExist) || !softkey.NoTPM(chip) {
		return true
	}
	c.Log.Info("there is no TPM: the helper's record alone holds the security epoch")
	return false
}
