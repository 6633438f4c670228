package fleet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/attest"
)

// readIMA compiles the allow-list and the keys in folder; either may be missing. It
// returns nil where no folder is configured.
func readIMA(folder string) (*attest.IMAReference, error) {
	if folder == "" {
		return nil, nil
	}
	var parts [2][]byte
	for i, name := range []string{"files.list", "keys.pem"} {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read what gateways may run: %w", err)
		}
		parts[i] = data
	}
	reference, err := attest.NewIMAReference(parts[0], parts[1])
	if err != nil {
		return nil, fmt.Errorf("%s: %w\nhint: it takes files.list, as sha256sum writes it, keys.pem, or both; docs/policy.md describes them", folder, err)
	}
	return reference, nil
}
