package fleet

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/attest"
)

const maxList = 64 << 20 // bytes of a list of files

// ReadPolicy reads an attestation policy and the lists of files that it names, which
// lie beside it in the folder ima.
func ReadPolicy(path string) (*attest.Policy, error) {
	raw, err := readBounded(path, maxPolicy)
	if err != nil {
		return nil, fmt.Errorf("read attestation policy: %w", err)
	}
	p, err := attest.ParsePolicy(raw)
	if err == nil {
		err = p.ReadLists(ListsBeside(path), nil)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w\nhint: docs/policy.md describes it", path, err)
	}
	return p, nil
}

// ListsBeside reads lists that lie beside the policy file at path.
func ListsBeside(path string) func(attest.Digest) ([]byte, error) {
	return func(list attest.Digest) ([]byte, error) {
		return readBounded(filepath.Join(filepath.Dir(path), filepath.FromSlash(attest.IMAList(list))), maxList)
	}
}

// readBounded follows links, as whoever installs a policy may use them.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read-only: nothing to lose
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return data, err
}
